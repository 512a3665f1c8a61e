// Is a bundle whole? The manifest against its schema, the files against the manifest.

export const SCHEMA_VERSION = 1;
export const MANIFEST = "manifest.json";
export const SIGNATURE = "manifest.json.minisig"; // signs the manifest, which therefore cannot list it
export const SCHEMA = "manifest.schema.json";
export const RAW_ITEMS = "golden/raw.json"; // what the golden inputs were made of
export const MAX_MANIFEST_BYTES = 64 * 2 ** 20;
export const MAX_SIGNATURE_BYTES = 4096;

/** The bundle or the device is not what the manifest says: exit status 2. */
export class Broken extends Error {}

/** The bundle is whole, but gives other numbers or misses a goal: exit status 1. */
export class Wrong extends Error {}


/** Return the manifest in `bytes`, or throw `Broken` for the first thing wrong with it. */
export function readManifest(bytes, schemaBytes) {
  let manifest, schema;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    manifest = JSON.parse(text);
    refuseRepeatedKeys(text);
    schema = JSON.parse(new TextDecoder().decode(schemaBytes));
  } catch (error) {
    throw new Broken(`\`${MANIFEST}\` is not valid JSON: ${error.message}`);
  }
  const version = typeName(manifest) === "object" ? manifest.schema_version : undefined;
  if (Number.isInteger(version) && version !== SCHEMA_VERSION)
    throw new Broken(`unknown schema version ${version}, expected ${SCHEMA_VERSION}`);
  for (const fault of schemaFaults(manifest, schema, schema.$defs, ""))
    throw new Broken(`\`${MANIFEST}\` breaks the schema: ${fault}`);
  for (const fault of contentFaults(manifest))
    throw new Broken(`\`${MANIFEST}\` is inconsistent: ${fault}`);
  return manifest;
}

/** Throw where an object has a key twice; `JSON.parse` would quietly take the last one. */
export function refuseRepeatedKeys(text) {
  const open = [];
  let name = null;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]:,]/gs)) {
    if (token === "{" || token === "[") open.push(token === "{" ? new Set() : null);
    else if (token === "}" || token === "]") open.pop();
    else if (token === ":") {
      if (open.at(-1).has(name)) throw new Error("a key is there twice");
      open.at(-1).add(name);
    } else if (token !== ",") name = JSON.parse(token);
  }
}

export function* schemaFaults(value, given, defs, where) {
  const schema = "$ref" in given ? defs[given.$ref.split("/").at(-1)] : given;
  const kind = typeName(value);
  const here = `\`${where.slice(0, -1)}\``;
  const kinds = [schema.type ?? kind].flat();
  if (!kinds.includes(kind) && !(kind === "integer" && kinds.includes("number")))
    yield `${here} has the wrong type (${kind})`;
  else if (("enum" in schema && !schema.enum.includes(value)) || ("const" in schema && schema.const !== value))
    yield `${here} has the unknown value ${JSON.stringify(value)}`;
  else if (kind === "string" && "pattern" in schema && !new RegExp(`^(?:${schema.pattern})$`, "u").test(value))
    yield `${here} has the malformed value ${JSON.stringify(value)}`;
  else if ((kind === "integer" || kind === "number") && !(value >= (schema.minimum ?? -Infinity)))
    yield `${here} is ${value}, below ${schema.minimum}`;
  else if (kind === "array")
    for (const [index, item] of value.entries())
      yield* schemaFaults(item, schema.items ?? {}, defs, `${where}${index}.`);
  else if (kind === "object") yield* objectFaults(value, schema, defs, where);
}

export function* objectFaults(value, schema, defs, where) {
  const known = schema.properties ?? {};
  const others = schema.additionalProperties ?? {};
  for (const key of [...(schema.required ?? [])].sort())
    if (!Object.hasOwn(value, key)) yield `\`${where}${key}\` is missing`;
  for (const [key, item] of Object.entries(value)) {
    if (!Object.hasOwn(known, key) && others === false) yield `\`${where}${key}\` is unknown`;
    else yield* schemaFaults(item, Object.hasOwn(known, key) ? known[key] : others, defs, `${where}${key}.`);
  }
}

export function typeName(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return Number.isInteger(value) ? "integer" : typeof value;
}

export function* contentFaults(manifest) {
  const names = Object.keys(manifest.files);
  for (const name of names)
    if (!isSafeName(name)) yield `${JSON.stringify(name)} is not a plain relative path`;
  if (new Set(names.map((name) => name.toLowerCase())).size !== names.length)
    yield "two names differ in case alone, which is one file on some systems";
  const variants = manifest.variants ?? [];
  if (new Set(variants.map((variant) => variant.name)).size !== variants.length)
    yield "two variants have one name";
  if (variants.length && variants[0].file !== manifest.model.file) yield "the first variant is not the model";
  const recorded = [manifest.golden, ...variants.map(({ golden }) => golden), manifest.preprocessing ?? { samples: 0 }];
  if (recorded.some(({ samples }) => samples > names.length)) {
    yield "it has more recorded samples than files";
    return; // a list of the names that it implies could fill the memory
  }
  const needed = [...goldenNames(manifest), ...variantFiles(manifest), ...rawNames(manifest)];
  for (const name of [manifest.model.file, ...needed])
    if (!Object.hasOwn(manifest.files, name)) yield `\`${name}\` is needed and not among the files`;
  if (manifest.gates_met && manifest.gates.some((gate) => gate.passed === false))
    yield "`gates_met` is true although a gate failed";
}

/** Yield the golden files that a manifest implies, of itself or of a variant. */
export function* goldenNames(manifest, golden = manifest.golden, prefix = "") {
  const kinds = ["inputs", "original", ...(manifest.verified_on ? ["model"] : [])];
  for (let index = 0; index < golden.samples; index += 1)
    for (const kind of kinds) yield `${prefix}golden/${kind}/${index}.npz`;
}

function* variantFiles(manifest) {
  for (const { name, file, golden } of (manifest.variants ?? []).slice(1)) {
    yield file;
    yield* goldenNames(manifest, golden, `variants/${name}/`);
  }
}

/** Yield the files of raw samples that a manifest implies. */
function* rawNames(manifest) {
  const told = manifest.preprocessing;
  if (told === undefined) return;
  yield told.file;
  yield RAW_ITEMS;
  for (let index = 0; index < (told.vector ? told.samples : 0); index += 1) yield `golden/vectors/${index}.npz`;
}

export function isSafeName(name) {
  for (const part of name.split("/"))
    // eslint-disable-next-line no-control-regex
    if (!part || /[. ]$/.test(part) || /[\x00-\x1f\\:*?"<>|]/.test(part)) return false;
  return ![MANIFEST, SIGNATURE].includes(name.toLowerCase());
}

export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
