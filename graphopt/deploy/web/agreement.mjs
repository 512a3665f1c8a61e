// Does a bundle work here? The device against the contract, the numbers against the records.

import { Broken, MANIFEST, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SCHEMA_VERSION, SIGNATURE, Wrong,
  readManifest, sha256 } from "./integrity.mjs";
import { difference, fromTensor, readNpz, unpackedBytes } from "./arrays.mjs";
import { readKey } from "./signature.mjs";
import { measure, short } from "./stopwatch.mjs";

const STATUS = ["ok", "wrong", "broken"]; // by exit status
// Twice what graphopt records in one bundle: an array that unpacks to more is a bomb.
const MAX_RECORD_BYTES = 64 * 2 ** 20;
const LIMITS = [["max_rel_error", "error", 1], ["min_cosine", "cosine", -1], ["min_sqnr_db", "sqnr_db", -1]];
const KERNEL_FEATURES =
  /^(?:ssse3|sse4_[12]|f16c|fma|avx.*|amx.*|neon|asimd.*|fphp|i8mm|bf16|sve[0-9]*|sme[0-9]*)$/;

const CHECKS = ["manifest", "files", "device", "load", "numbers", "memory", "gates", "latency"];

/** A check that cannot be made here, though nothing is wrong. */
class Skipped extends Error {}

export class Validation {
  constructor(bundle, device, { latency = false, publicKey = null } = {}) {
    Object.assign(this, { bundle, device, wantsLatency: latency, publicKey, bound: "bound" });
    this.report = { checks: [], outputs: {}, latency: null };
  }

  async run() {
    let code = 0;
    for (const name of this.names()) {
      const entry = { name, status: "passed", detail: "" };
      this.report.checks.push(entry);
      try {
        entry.detail = await this[`check${name[0].toUpperCase()}${name.slice(1)}`]();
      } catch (error) {
        if (![Broken, Wrong, Skipped].some((kind) => error instanceof kind)) throw error;
        const isFault = !(error instanceof Skipped);
        Object.assign(entry, { status: isFault ? "failed" : "skipped", detail: error.message });
        if (isFault) code = Math.max(code, error instanceof Wrong ? 1 : 2);
      }
      if (STATUS[code] === "broken") break;
    }
    const report = { schema_version: 1, status: STATUS[code], exit_code: code, ...this.report };
    return JSON.parse(JSON.stringify(report)); // infinities become null
  }

  /** Yield the names of the checks in their order; the manifest is read by the first ones. */
  * names() {
    if (this.publicKey !== null) yield "signature";
    for (const name of CHECKS) {
      yield name;
      if (name === "numbers" && this.contract.preprocessing) yield "inputs";
    }
  }

  async checkSignature() {
    readKey(this.publicKey);
    const manifest = await this.bundle.read(MANIFEST, MAX_MANIFEST_BYTES);
    const signature = await this.bundle.read(SIGNATURE, MAX_SIGNATURE_BYTES);
    return this.device.checkSignature(manifest, signature, this.publicKey);
  }

  async checkManifest() {
    const bytes = await this.bundle.read(MANIFEST, MAX_MANIFEST_BYTES);
    this.contract = readManifest(bytes, await this.bundle.readSchema());
    this.report.manifest_sha256 = await sha256(bytes);
    return `schema version ${SCHEMA_VERSION}, target ${this.contract.target}`;
  }

  async checkFiles() {
    const { files } = this.contract;
    const found = await this.bundle.list([...Object.keys(files), MANIFEST, SIGNATURE]);
    for (const name of Object.keys(files).sort()) {
      const { size, digest } = await this.bundle.facts(name, files[name].size_bytes);
      if (size !== files[name].size_bytes || digest !== files[name].sha256)
        throw new Broken(`\`${name}\` was changed: it is not what the manifest says`);
    }
    for (const name of Object.keys(files).filter((one) => one.endsWith(".npz")).sort()) {
      const size = unpackedBytes(await this.bundle.read(name, files[name].size_bytes));
      if (size > MAX_RECORD_BYTES)
        throw new Broken(`\`${name}\` unpacks to ${size} bytes, more than ${MAX_RECORD_BYTES}`);
    }
    const unchecked = this.publicKey === null && (await this.bundle.has(SIGNATURE));
    const note = unchecked ? "; signed, which was not checked: no public key was given" : "";
    return `${Object.keys(files).length} files are unchanged${found}${note}`;
  }

  async checkDevice() {
    const { device, session, files } = this.contract;
    const version = this.device.version();
    if (isOlder(version, device.minimum_onnxruntime))
      throw new Broken(`onnxruntime ${device.minimum_onnxruntime} or newer is needed, here is ${version}`);
    const known = await this.device.providers();
    const names = session.providers.map((provider) => provider.name);
    const missing = names.filter((name) => !known.includes(name)).sort();
    if (missing.length)
      throw new Broken(`${missing.join(", ")} is needed, here are only ${known.join(", ")}`);
    for (const options of [session.config, ...session.providers.map((provider) => provider.options)])
      for (const text of Object.values(options))
        // Some options name a library, which the runtime then executes.
        if (/[/\\]/.test(text) || Object.hasOwn(files, text))
          throw new Broken(`the session option ${JSON.stringify(text)} names a file, which is not allowed`);
    const [wanted, here] = [device.architectures ?? [], this.device.architecture()];
    if (wanted.length && !wanted.includes(here))
      throw new Broken(`it is for ${wanted.join(" or ")}, this machine is ${here}`);
    const features = this.device.cpuFeatures();
    const lacking = features ? device.cpu_features.filter((name) => !features.includes(name)).sort() : [];
    if (lacking.length) throw new Broken(`the CPU lacks ${lacking.join(", ")}`);
    const note = features ? "" : "; this system does not tell what its CPU can do";
    return `onnxruntime ${version}, ${names.join(", ")}${note}`;
  }

  async checkLoad() {
    const { model, session } = this.contract;
    this.session = await this.open(model.file);
    const note = session.order ? "; the order of the file cannot be asked for here" : "";
    return `\`${model.file}\` loads with the recorded session options${note}`;
  }

  async open(file) {
    try {
      return await this.device.open(await this.bundle.model(file), this.contract.session);
    } catch (error) {
      throw new Broken(`the runtime does not load the model: ${error.message ?? error}`);
    }
  }

  async checkNumbers() {
    const { golden, verified_on: verified } = this.contract;
    const same = verified !== null && this.contract.session.threads > 0
      && verified.onnxruntime === this.device.version() && verified.platform === this.device.platform()
      && verified.cpu_features.join() === this.kernelFeatures().join();
    this.bound = same ? "same_kernels_bound" : "bound";
    const faults = await this.disagreements(this.session, golden, "");
    const others = (this.contract.variants ?? []).slice(1);
    for (const variant of others) {
      const session = await this.open(variant.file);
      const found = await this.disagreements(session, variant.golden, `variants/${variant.name}/`);
      faults.push(...found.map((fault) => `variant ${variant.name}: ${fault}`));
      await session.release(); // one at a time: they share weights in the file, not in memory
    }
    if (faults.length) throw new Wrong([...new Set(faults)].join("; ") + this.suspicion());
    const note = (golden.note ? ` (${golden.note})` : "")
      + (others.length ? `; ${others.length} more variants agree with theirs` : "");
    return `${same ? "the same" : "other"} kernels, recorded samples that agree: ${golden.samples}${note}`;
  }

  /** Return where a model gives other numbers than its records under `prefix` say. */
  async disagreements(session, golden, prefix) {
    const faults = [];
    for (let index = 0; index < golden.samples; index += 1) {
      const values = await this.outputs(session, await this.golden("inputs", index, prefix));
      for (const kind of this.contract.verified_on ? ["model", "original"] : ["original"])
        faults.push(...this.compare(kind, await this.golden(kind, index, prefix), values, golden.outputs));
    }
    return faults;
  }

  async checkInputs() {
    throw new Skipped("texts, images and recordings are not prepared in JavaScript: the recorded inputs were run");
  }

  kernelFeatures() {
    return (this.device.cpuFeatures() ?? []).filter((name) => KERNEL_FEATURES.test(name)).sort();
  }

  async golden(kind, index, prefix = "") {
    const name = `${prefix}golden/${kind}/${index}.npz`;
    try {
      return await readNpz(await this.bundle.read(name, this.contract.files[name].size_bytes));
    } catch (error) {
      throw new Broken(`\`${name}\` cannot be read: ${error.message}`);
    }
  }

  async outputs(session, arrays) {
    try {
      return await this.device.run(session, arrays);
    } catch (error) {
      throw new Broken(`the runtime does not run the model: ${error.message ?? error}`);
    }
  }

  /** Yield what is too far from what `kind` gave when the bundle was made. */
  * compare(kind, recorded, values, rules) {
    const limits = Object.fromEntries(this.contract.gates.map((gate) => [gate.name, gate.limit]));
    const allowed = kind === "model" ? { max_rel_error: 0 } : limits;
    for (const [name, rule] of Object.entries(rules)) {
      if (rule.compare === "nothing") continue;
      if (!values[name] || !recorded[name]) throw new Broken(`the output \`${name}\` is missing`);
      const [expected, array] = [recorded[name], fromTensor(values[name], rule.stride)];
      if (rule.compare === "shape" && array.dims.join() === expected.dims.join()) continue;
      const found = difference(expected, array);
      this.report.outputs[name] ??= {};
      const worst = (this.report.outputs[name][kind] ??= { ...found });
      worst.mismatch ??= found.mismatch;
      for (const [, key, sign] of LIMITS) worst[key] = sign * Math.max(sign * worst[key], sign * found[key]);
      if (found.mismatch) {
        yield `\`${name}\` against the ${kind}: ${found.mismatch}`;
        continue;
      }
      for (const [gate, key, sign] of LIMITS) {
        // Every comparison leaves room for the kernels of another CPU.
        const limit = allowed[gate] + (key === "error" ? rule[this.bound] : 0);
        if (Object.hasOwn(allowed, gate) && sign * found[key] > sign * (key === "error" ? limit : allowed[gate]))
          yield `\`${name}\` against the ${kind}: ${key} is ${short(found[key])}, allowed ${short(limit)}`;
      }
    }
  }

  suspicion() {
    const [verified, here] = [this.contract.verified_on, this.device.cpuFeatures()];
    const lacking = verified && here ? verified.cpu_features.filter((name) => !here.includes(name)).sort() : [];
    return lacking.length ? `; this CPU lacks ${lacking.join(", ")} of the one before` : "";
  }

  async checkMemory() {
    const [limit, peak] = [this.contract.device.maximum_memory_bytes, this.device.peakBytes()];
    if (limit && peak && peak > limit)
      throw new Broken(`${peak} bytes were resident, the device contract allows ${limit}`);
    return peak ? `${peak} bytes resident at most` : "this system does not tell";
  }

  async checkGates() {
    const { gates, gates_met: met } = this.contract;
    const missed = gates.filter((gate) => gate.passed === false);
    if (!met)
      throw new Wrong(`made with a missed goal: ${missed.map((gate) => `${gate.name} is ${gate.value === null ? "not known" : short(gate.value)}, limit ${short(gate.limit)}`).join("; ")}`);
    const unknown = gates.filter((gate) => gate.passed === null).map((gate) => gate.name).join(", ");
    return `met where the bundle was made${unknown ? `; not measured: ${unknown}` : ""}`;
  }

  async checkLatency() {
    if (!this.wantsLatency || !this.contract.golden.samples) return "not measured";
    const arrays = await this.golden("inputs", 0);
    const [found, text] = await measure(() => this.outputs(this.session, arrays));
    this.report.latency = found;
    return text;
  }
}

export function isOlder(version, minimum) {
  const [a, b] = [version, minimum].map((text) => (text.match(/[0-9]+/g) ?? []).slice(0, 3).map(Number));
  for (let index = 0; index < Math.max(a.length, b.length); index += 1)
    if ((a[index] ?? -1) !== (b[index] ?? -1)) return (a[index] ?? -1) < (b[index] ?? -1);
  return false;
}

/**
 * Check a bundle and return the report that `validate.py --json` prints.
 *
 * `bundle` says where the files are (`Folder`, `Served`), `device` what runs them (`NodeRuntime`,
 * `WebRuntime`); `options` are `latency` and `publicKey`, the text of a `minisign.pub`.
 */
export async function validate(bundle, device, options = {}) {
  return new Validation(bundle, device, options).run();
}
