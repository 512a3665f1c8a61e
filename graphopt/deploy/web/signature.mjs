// Who made a bundle? The signature of its manifest, in the form of minisign.

import { Broken, SIGNATURE } from "./integrity.mjs";

/** Check a signature of minisign; `crypto` is Node's, which knows BLAKE2b. */
export function checkSignature(manifest, signature, keyText, crypto) {
  const key = decoded(keyText.split("\n").filter((line) => line.trim()).at(-1) ?? "", "the public key");
  if (key.length !== 42 || key.toString("latin1", 0, 2) !== "Ed")
    throw new Broken("the public key is not one of minisign");
  const lines = signature.toString("utf8").replace(/\n+$/, "").split("\n");
  const [untrusted, trusted] = ["untrusted comment: ", "trusted comment: "];
  if (lines.length !== 4 || !lines[0].startsWith(untrusted) || !lines[2].startsWith(trusted))
    throw new Broken(`\`${SIGNATURE}\` is not a signature of minisign`);
  const [made, both] = [lines[1], lines[3]].map((line) => decoded(line, `\`${SIGNATURE}\``));
  const algorithm = made.toString("latin1", 0, 2);
  if (!["Ed", "ED"].includes(algorithm) || made.length !== 74 || both.length !== 64)
    throw new Broken(`\`${SIGNATURE}\` is not a signature of minisign`);
  const name = (bytes) => Buffer.from(bytes).reverse().toString("hex").toUpperCase();
  const [signer, known] = [name(made.subarray(2, 10)), name(key.subarray(2, 10))];
  if (signer !== known) throw new Broken(`signed with another key: ${signer}, not ${known}`);
  const comment = lines[2].slice(trusted.length);
  const signed = algorithm === "Ed" ? manifest : crypto.createHash("blake2b512").update(manifest).digest();
  const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), key.subarray(10)]);
  const publicKey = crypto.createPublicKey({ key: spki, format: "der", type: "spki" });
  const fits = (content, value) => crypto.verify(null, content, publicKey, value);
  if (!fits(signed, made.subarray(10))) throw new Broken("the signature does not fit the manifest");
  // The comment is signed with the signature, so that neither can come from elsewhere.
  if (!fits(Buffer.concat([made.subarray(10), Buffer.from(comment)]), both))
    throw new Broken("the trusted comment was changed");
  return `signed with key ${signer}: ${comment}`;
}

export function decoded(text, what) {
  const plain = text.trim();
  if (!plain || !/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(plain))
    throw new Broken(`${what} is not base64`);
  return Buffer.from(plain, "base64");
}
