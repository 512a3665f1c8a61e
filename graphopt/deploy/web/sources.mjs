// Where a bundle is: in a folder, or on a web server.

import { Broken, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SCHEMA, sha256 } from "./integrity.mjs";

const NO_WEIGHTS = /(?:^|\/)golden\/|\.(?:json|html|py|mjs|minisig|npz|onnx|ort)$/;

/** A bundle in a folder, read with the modules of Node.js. */
export class Folder {
  constructor(path, node) {
    this.path = path;
    this.node = node;
  }

  at(name) {
    return this.node.path.join(this.path, name);
  }

  async facts(name, limit) {
    const size = (await this.stat(name)).size;
    const hash = this.node.crypto.createHash("sha256");
    // Piece by piece: the memory of the contract is for the model, not for its file.
    if (size === limit) for await (const block of this.node.fs.createReadStream(this.at(name))) hash.update(block);
    return { size, digest: hash.digest("hex") };
  }

  async stat(name) {
    const facts = await this.node.fs.promises.lstat(this.at(name)).catch(() => null);
    if (facts === null) throw new Broken(`\`${name}\` is missing`);
    return facts;
  }

  async read(name, limit) {
    const facts = await this.stat(name);
    if (!facts.isFile() || facts.size > limit) throw new Broken(`\`${name}\` is not a regular file of reasonable size`);
    return this.node.fs.promises.readFile(this.at(name));
  }

  async has(name) {
    return this.stat(name).then(() => true, () => false);
  }

  /** The schema that lies beside this program, whichever bundle is checked. */
  async readSchema() {
    return this.node.fs.promises.readFile(new URL(SCHEMA, import.meta.url));
  }

  async list(known) {
    const entries = await this.node.fs.promises.readdir(this.path, { recursive: true, withFileTypes: true });
    for (const entry of entries) {
      const name = this.node.path.relative(this.path, this.node.path.join(entry.parentPath ?? entry.path, entry.name)).replaceAll("\\", "/");
      if (!entry.isFile() && !entry.isDirectory()) throw new Broken(`\`${name}\` is a link or a special file`);
      if (entry.isFile() && !known.includes(name)) throw new Broken(`\`${name}\` is not in the manifest`);
    }
    return "";
  }

  async model(file) {
    return { place: this.node.path.resolve(this.at(file)), beside: [] };
  }
}

/** A bundle that a web server gives, file by file. */
export class Served {
  constructor(base) {
    this.base = base;
    this.known = new Map();
  }

  async facts(name, limit) {
    const bytes = await this.read(name, limit);
    return { size: bytes.length, digest: await sha256(bytes) };
  }

  async read(name, limit) {
    // What was hashed is what is used: a server could give something else the next time.
    if (!this.known.has(name)) this.known.set(name, await this.fetch(new URL(name, this.base), name, limit));
    return this.known.get(name);
  }

  async fetch(url, name, limit) {
    const answer = await fetch(url).catch(() => null);
    if (!answer?.ok) throw new Broken(`\`${name}\` is missing`);
    const blocks = [];
    let size = 0;
    for (let reader = answer.body.getReader(), step; !(step = await reader.read()).done; ) {
      size += step.value.length;
      if (size > limit) {
        await reader.cancel();
        throw new Broken(`\`${name}\` is larger than it may be (${limit} bytes)`);
      }
      blocks.push(step.value);
    }
    return new Uint8Array(await new Blob(blocks).arrayBuffer());
  }

  async has(name) {
    return this.read(name, MAX_SIGNATURE_BYTES).then(() => true, () => false);
  }

  async readSchema() {
    return this.fetch(new URL(SCHEMA, import.meta.url), SCHEMA, MAX_MANIFEST_BYTES);
  }

  async list() {
    return "; a server does not tell whether there are others";
  }

  async model(file) {
    const beside = [...this.known].filter(([name]) => name !== file && !NO_WEIGHTS.test(name));
    return { place: this.known.get(file), beside };
  }
}
