// How long one run takes here: the method of validate.py without an original beside it.

const [BUDGET_MS, WARM_UP_RUNS, FEWEST_SAMPLES, MOST_SAMPLES] = [2000, 3, 10, 1000];
const SHORTEST_SAMPLE_MS = 1; // what is shorter is mostly the clock and the call
const NOTICEABLE_DRIFT = 1.1;

/** Return what the report says under `latency`, and the sentence of the check. */
export async function measure(run) {
  const sampled = async (repeats) => {
    const start = performance.now();
    for (let index = 0; index < repeats; index += 1) await run();
    return (performance.now() - start) / repeats;
  };
  let shortest = Infinity;
  for (let index = 0; index < WARM_UP_RUNS; index += 1) shortest = Math.min(shortest, await sampled(1));
  const repeats = Math.max(1, Math.round(SHORTEST_SAMPLE_MS / Math.max(shortest, 1e-6)));
  const taken = [];
  const end = performance.now() + BUDGET_MS;
  while (taken.length < FEWEST_SAMPLES || (taken.length < MOST_SAMPLES && performance.now() < end))
    taken.push(await sampled(repeats));
  const [p10, median, p99] = [0.1, 0.5, 0.99].map((share) => quantile(taken, share));
  const [runs, tenth] = [taken.length * repeats, Math.max(1, Math.floor(taken.length / 10))];
  const drift = quantile(taken.slice(-tenth), 0.5) / quantile(taken.slice(0, tenth), 0.5);
  let text = `median ${short(median, 3)} ms, p99 ${short(p99, 3)} ms, ${runs} runs`;
  if (drift >= NOTICEABLE_DRIFT)
    text += `; the last tenth took ${drift.toFixed(2)} times the first: heat, or other work`;
  return [{ p10_ms: p10, median_ms: median, p99_ms: p99, runs, drift_ratio: drift, reference: null }, text];
}

export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** Write a number as `%.4g` does in C and Python. */
export function short(value, digits = 4) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const power = Number(exponent);
  if (power >= -4 && power < digits) return String(Number(value.toPrecision(digits)));
  return `${Number(mantissa)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}
