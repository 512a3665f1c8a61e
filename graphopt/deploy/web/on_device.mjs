// Check a graphopt bundle where JavaScript runs it: `node validate.mjs [BUNDLE] [--json]`, or from a
// page with onnxruntime-web (validate.html).
//
// Needs Node.js 18 and onnxruntime-node, found from the current folder or beside this file, or a
// browser and onnxruntime-web; nothing else. The checks, the JSON and the exit status are those of
// validate.py: 0 all is well; 1 wrong numbers or a missed goal; 2 a damaged bundle, an unknown
// schema, or a device that does not keep the contract, after which nothing more is checked.


import { Broken } from "./integrity.mjs";
import { validate } from "./agreement.mjs";
import { NodeRuntime } from "./runtimes.mjs";
import { Folder } from "./sources.mjs";

/** Run as a program; return the exit status. */
async function main(words) {
  const [fs, path, crypto, process, { createRequire }, { fileURLToPath }] = await Promise.all(
    ["fs", "path", "crypto", "process", "module", "url"].map((name) => import(`node:${name}`)));
  const node = { fs, path, crypto, process };
  const given = { json: false, latency: false, publicKey: null, bundle: fileURLToPath(new URL(".", import.meta.url)) };
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index];
    if (word === "--json" || word === "--latency") given[word.slice(2)] = true;
    else if (word === "--public-key" && index + 1 < words.length) {
      index += 1;
      given.publicKey = fs.existsSync(words[index]) ? fs.readFileSync(words[index], "utf8") : words[index];
    } else if (word.startsWith("-")) {
      const usage = "usage: node validate.mjs [BUNDLE] [--json] [--latency] [--public-key FILE|KEY]\n";
      (word === "--help" ? process.stdout : process.stderr).write(usage);
      return word === "--help" ? 0 : 2;
    } else given.bundle = word;
  }
  const device = await nodeRuntime(node, createRequire);
  const report = await validate(new Folder(given.bundle, node), device, given);
  const lines = report.checks.map((item) => `${item.status.padEnd(7)} ${item.name.padEnd(9)} ${item.detail}`);
  // Spell out what a terminal could not show, or would obey.
  const plain = [...lines, report.status].join("\n").replace(/[^\n -~]/g, (sign) => JSON.stringify(sign).slice(1, -1));
  // Node.js would end with 1, which says that the numbers are wrong.
  process.stdout.on("error", (error) => {
    if (error.code === "EPIPE") process.exit(141);
    process.stderr.write(`broken: the report cannot be written: ${error.message}\n`);
    process.exit(2);
  });
  process.stdout.write(`${given.json ? JSON.stringify(report, null, 2) : plain}\n`);
  return report.exit_code;
}

async function nodeRuntime(node, createRequire) {
  for (const from of [import.meta.url, node.path.join(node.process.cwd(), "x.js")])
    try {
      return new NodeRuntime(createRequire(from)("onnxruntime-node"), node);
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") return new Missing(error.message, node);
    }
  return new Missing("no onnxruntime-node here, nor beside this file: `npm install onnxruntime-node`", node);
}

/** Stands in for a runtime that is not installed, so that the report says so. */
class Missing extends NodeRuntime {
  constructor(why, node) {
    super({ env: { versions: {} } }, node);
    this.why = why;
  }

  version() {
    throw new Broken(`onnxruntime-node cannot be loaded: ${this.why}`);
  }
}

if (globalThis.process?.argv?.[1] && (await import("node:fs")).realpathSync(process.argv[1]) === (await import("node:url")).fileURLToPath(import.meta.url))
  process.exitCode = await main(process.argv.slice(2));
