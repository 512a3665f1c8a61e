// Who made a bundle? The signature of its manifest, in the form of minisign.

import { blake2b512 } from "./blake2b.mjs";
import { Broken, SIGNATURE } from "./integrity.mjs";

const [KEY_BYTES, SIGNED_BYTES, VALUE_BYTES, LINES] = [42, 74, 64, 4];
const [UNTRUSTED, TRUSTED] = ["untrusted comment: ", "trusted comment: "];

/**
 * Check a signature of minisign, and return who signed.
 *
 * `fits(key, content, value)` tells whether the 64 bytes `value` are the Ed25519 signature of
 * `content` by the 32 bytes `key`.
 */
export async function checkSignature(manifest, signature, keyText, fits) {
  const key = readKey(keyText);
  const lines = asText(signature).replace(/\n+$/, "").split("\n");
  if (lines.length !== LINES || !lines[0].startsWith(UNTRUSTED) || !lines[2].startsWith(TRUSTED))
    throw new Broken(`\`${SIGNATURE}\` is not a signature of minisign`);
  const [made, both] = [lines[1], lines[3]].map((line) => decoded(line, `\`${SIGNATURE}\``));
  if (!["Ed", "ED"].includes(letters(made)) || made.length !== SIGNED_BYTES || both.length !== VALUE_BYTES)
    throw new Broken(`\`${SIGNATURE}\` is not a signature of minisign`);
  const [signer, known] = [made, key].map((bytes) => keyName(bytes.subarray(2, 10)));
  if (signer !== known) throw new Broken(`signed with another key: ${signer}, not ${known}`);
  const [comment, value] = [lines[2].slice(TRUSTED.length), made.slice(10)];
  const signed = letters(made) === "Ed" ? manifest : blake2b512(manifest);
  if (!(await fits(key.slice(10), signed, value))) throw new Broken("the signature does not fit the manifest");
  // The comment is signed with the signature, so that neither can come from elsewhere.
  const whole = new Uint8Array([...value, ...new TextEncoder().encode(comment)]);
  if (!(await fits(key.slice(10), whole, both))) throw new Broken("the trusted comment was changed");
  return `signed with key ${signer}: ${comment}`;
}

/** Return the bytes of a `minisign.pub`, or of its second line alone. */
export function readKey(text) {
  const key = decoded(text.split("\n").filter((line) => line.trim()).at(-1) ?? "", "the public key");
  if (key.length !== KEY_BYTES || letters(key) !== "Ed") throw new Broken("the public key is not one of minisign");
  return key;
}

function decoded(text, what) {
  const plain = text.trim();
  if (!/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(plain))
    throw new Broken(`${what} is not base64`);
  return Uint8Array.from(atob(plain), (sign) => sign.charCodeAt(0));
}

function asText(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Broken(`\`${SIGNATURE}\` is not text`);
  }
}

function letters(bytes) {
  return String.fromCharCode(...bytes.subarray(0, 2));
}

/** A key's name as minisign prints it: a number whose first byte is the least. */
function keyName(bytes) {
  return [...bytes].reverse().map((byte) => byte.toString(16).padStart(2, "0")).join("").toUpperCase();
}
