// The arrays of `.npz` files and of the runtime, and how far one is from another.

/** Return the arrays of an `.npz` file: name to `{kind, type, data, dims}`. */
export async function readNpz(bytes) {
  const arrays = Object.create(null);
  for (const { name, method, packed, size, sum, local } of zipMembers(bytes)) {
    if (method !== 0 && method !== 8) throw new Error(`its compression ${method} is unknown`);
    const content = method === 8 ? await inflated(packed, size) : packed;
    if (content.length !== size || crc32(content) !== sum || local !== name) throw new Error(`\`${name}\` is damaged`);
    arrays[name.replace(/\.npy$/, "")] = readNpy(content);
  }
  return arrays;
}

/** The check sum of the ZIP format: CRC-32 with the polynomial 0xedb88320. */
export function crc32(bytes) {
  let sum = ~0;
  for (const byte of bytes) sum = (sum >>> 8) ^ CRC_TABLE[(sum ^ byte) & 255];
  return ~sum >>> 0;
}

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, index) => {
  for (let bit = 0; bit < 8; bit += 1) index = index & 1 ? (index >>> 1) ^ 0xedb88320 : index >>> 1;
  return index;
});

/** Return what an `.npz` file says that its members unpack to; 0 where it is none, which reading it tells. */
export function unpackedBytes(bytes) {
  try {
    return [...zipMembers(bytes)].reduce((total, { size }) => total + size, 0);
  } catch {
    return 0;
  }
}

function* zipMembers(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw new Error("it is not a zip file");
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    if (view.getUint32(at, true) !== 0x02014b50) throw new Error("its table of contents is damaged");
    const [method, nameLength] = [view.getUint16(at + 10, true), view.getUint16(at + 28, true)];
    const [packedSize, size] = [view.getUint32(at + 20, true), view.getUint32(at + 24, true)];
    const skip = nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
    const start = view.getUint32(at + 42, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const localLength = view.getUint16(start + 26, true);
    const local = new TextDecoder().decode(bytes.subarray(start + 30, start + 30 + localLength));
    const from = start + 30 + localLength + view.getUint16(start + 28, true);
    const sum = view.getUint32(at + 16, true);
    yield { name, method, size, sum, local, packed: bytes.subarray(from, from + packedSize) };
    at += 46 + skip;
  }
}

/** Unpack what its table of contents says is `size` bytes, and not one more. */
export async function inflated(packed, size) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const blocks = [];
  let left = size;
  for (let reader = stream.getReader(), step; !(step = await reader.read()).done; blocks.push(step.value)) {
    left -= step.value.length;
    if (left < 0) {
      await reader.cancel();
      throw new Error("an array is larger than its table of contents says");
    }
  }
  return new Uint8Array(await new Blob(blocks).arrayBuffer());
}

const NPY_TYPES = {
  "<f4": ["f", "float32", Float32Array], "<f8": ["f", "float64", Float64Array], "<f2": ["f", "float16", Uint16Array],
  "|i1": ["i", "int8", Int8Array], "<i2": ["i", "int16", Int16Array], "<i4": ["i", "int32", Int32Array],
  "<i8": ["i", "int64", BigInt64Array], "|u1": ["u", "uint8", Uint8Array], "<u2": ["u", "uint16", Uint16Array],
  "<u4": ["u", "uint32", Uint32Array], "<u8": ["u", "uint64", BigUint64Array], "|b1": ["b", "bool", Uint8Array],
};

export function readNpy(bytes) {
  if (bytes[0] !== 0x93 || new TextDecoder().decode(bytes.subarray(1, 6)) !== "NUMPY") throw new Error("it holds no array");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [length, start] = bytes[6] === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder().decode(bytes.subarray(start, start + length));
  const descr = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const dims = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").filter((text) => text.trim()).map(Number);
  if (/'fortran_order':\s*True/.test(header) && dims.length > 1) throw new Error("an array is in Fortran's order");
  const count = dims.reduce((product, size) => product * size, 1);
  const content = new Uint8Array(bytes.subarray(start + length)); // a copy: typed arrays want aligned bytes
  const text = /^<U([0-9]+)$/.exec(descr ?? "");
  if (text) return { kind: "U", type: "string", dims, data: readText(content, count, Number(text[1])) };
  const [kind, type, Kind] = NPY_TYPES[descr] ?? [];
  if (!Kind) throw new Error(`arrays of ${descr} are not known here`);
  if (content.length !== count * Kind.BYTES_PER_ELEMENT) throw new Error("an array ends too early");
  return { kind, type, dims, data: new Kind(content.buffer, 0, count) };
}

export function readText(content, count, width) {
  const points = new Uint32Array(content.buffer, 0, count * width);
  return Array.from({ length: count }, (_, index) =>
    String.fromCodePoint(...points.subarray(index * width, (index + 1) * width)).replace(/\0+$/, ""));
}

export function fromHalf(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

export function floats(array) {
  return array.type === "float16" && array.data instanceof Uint16Array
    ? Float64Array.from(array.data, fromHalf)
    : Float64Array.from(array.data);
}

/** Return the array of a tensor of the runtime; every `stride`-th element, flat, where it is above 1. */
export function fromTensor(tensor, stride) {
  const kinds = { float32: "f", float64: "f", float16: "f", bool: "b", string: "U" };
  const kind = kinds[tensor.type] ?? (tensor.type.startsWith("u") ? "u" : "i");
  if (stride === 1) return { kind, type: tensor.type, dims: [...tensor.dims], data: tensor.data };
  const data = tensor.data.filter((_, index) => index % stride === 0);
  return { kind, type: tensor.type, dims: [data.length], data };
}

const KINDS = { f: "floats", i: "integers", u: "integers", b: "booleans", U: "texts" };

/** The dimensions as Python writes them: `(3,)`. */
function shape({ dims }) {
  return `(${dims.join(", ")}${dims.length === 1 ? "," : ""})`;
}

/** Say how far `values` is from `reference`; see `difference` of validate.py. */
export function difference(reference, values) {
  const worst = { error: Infinity, cosine: -1, sqnr_db: -Infinity };
  if (reference.dims.join() !== values.dims.join())
    return { ...worst, mismatch: `shape ${shape(values)}, expected ${shape(reference)}` };
  const [here, there] = [values, reference].map(({ kind }) => KINDS[kind]);
  if (here !== there) return { ...worst, mismatch: `${here}, expected ${there}` };
  if (reference.kind !== "f" || values.kind !== "f") {
    let equal = 0;
    for (let index = 0; index < values.data.length; index += 1)
      // 1 and 1n are equal where a runtime gives another width of integers
      if (reference.data[index] == values.data[index]) equal += 1; // eslint-disable-line eqeqeq
    const share = values.data.length ? equal / values.data.length : 1;
    return { error: 1 - share, cosine: share, sqnr_db: Infinity, mismatch: null };
  }
  const [a, b] = [floats(reference), floats(values)];
  for (const [name, test] of [["NaN", Number.isNaN], ["+inf", (x) => x === Infinity], ["-inf", (x) => x === -Infinity]])
    if (a.some((x, index) => test(x) !== test(b[index]))) return { ...worst, mismatch: `${name} at other positions` };
  return { ...distance(a, b), mismatch: null };
}

export function distance(reference, values) {
  let largest = 0;
  let same = true;
  reference.forEach((x, index) => {
    if (!Number.isFinite(x)) return;
    largest = Math.max(largest, Math.abs(x));
    same &&= x === values[index];
  });
  if (same) return { error: 0, cosine: 1, sqnr_db: Infinity };
  if (largest === 0) return { error: Infinity, cosine: 0, sqnr_db: -Infinity };
  let [error, aa, bb, ab, dd] = [0, 0, 0, 0, 0];
  reference.forEach((x, index) => {
    if (!Number.isFinite(x)) return;
    const [a, b] = [x / largest, values[index] / largest]; // squares must not overflow
    error = Math.max(error, Math.abs(b - a));
    aa += a * a;
    bb += b * b;
    ab += a * b;
    dd += (b - a) ** 2;
  });
  const cosine = bb ? ab / (Math.sqrt(aa) * Math.sqrt(bb)) : 0;
  return { error, cosine, sqnr_db: 10 * Math.log10(aa / dd) };
}
