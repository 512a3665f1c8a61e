// What runs a bundle: onnxruntime-node, or onnxruntime-web.

import { Broken } from "./integrity.mjs";
import { checkSignature } from "./signature.mjs";

export class Runtime {
  constructor(ort, names) {
    this.ort = ort;
    this.names = names; // provider to what JavaScript calls it
  }

  async providers() {
    return Object.keys(this.names);
  }

  async open({ place, beside }, session) {
    const options = {
      executionProviders: session.providers.map(({ name, options: given }) => ({ name: this.names[name], ...given })),
      graphOptimizationLevel: session.optimization,
      intraOpNumThreads: session.threads,
      interOpNumThreads: 1,
      logSeverityLevel: 3,
      extra: session.config,
    };
    if (beside.length) options.externalData = beside.map(([path, data]) => ({ path, data }));
    return this.ort.InferenceSession.create(place, options);
  }

  async run(session, arrays) {
    const feeds = {};
    for (const [name, { type, data, dims }] of Object.entries(arrays)) feeds[name] = new this.ort.Tensor(type, data, dims);
    return session.run(feeds);
  }
}

/** onnxruntime-node, in this process. */
export class NodeRuntime extends Runtime {
  constructor(ort, node) {
    const names = { cpu: "CPUExecutionProvider", cuda: "CUDAExecutionProvider", dml: "DmlExecutionProvider",
      coreml: "CoreMLExecutionProvider", webgpu: "WebGpuExecutionProvider", tensorrt: "TensorrtExecutionProvider" };
    const here = (ort.listSupportedBackends?.() ?? [{ name: "cpu" }]).filter(({ name }) => names[name]);
    super(ort, Object.fromEntries(here.map(({ name }) => [names[name], name])));
    this.node = node;
  }

  version() {
    return this.ort.env.versions.node ?? this.ort.env.versions.common;
  }

  platform() {
    const { platform, arch } = this.node.process;
    const systems = { linux: "Linux", darwin: "Darwin", win32: "Windows" };
    const arm = platform === "linux" ? "aarch64" : "arm64";
    return `${systems[platform] ?? platform}-${{ x64: "x86_64", arm64: arm }[arch] ?? arch}`;
  }

  architecture() {
    const { arch } = this.node.process;
    return { x64: "x86_64", arm64: "aarch64" }[arch] ?? arch;
  }

  /** What Linux says that every core of this machine can do; null elsewhere. */
  cpuFeatures() {
    const lines = [...this.proc("cpuinfo").matchAll(/^(?:flags|Features)\s*:(.*)$/gm)].map((found) => found[1].trim().split(/\s+/));
    if (!lines.length) return null;
    const common = lines[0].filter((name) => lines.every((line) => line.includes(name)));
    for (const [old, name] of [["pni", "sse3"], ["asimd", "neon"]]) if (common.includes(old)) common.push(name);
    return [...new Set(common)];
  }

  peakBytes() {
    const found = /^VmHWM:\s*([0-9]+) kB/m.exec(this.proc("self/status"));
    return found ? Number(found[1]) * 1024 : null;
  }

  proc(name) {
    try {
      return this.node.fs.readFileSync(`/proc/${name}`, "utf8");
    } catch {
      return ""; // not Linux
    }
  }

  checkSignature(manifest, signature, publicKey) {
    const { crypto } = this.node;
    return checkSignature(manifest, signature, publicKey, (key, content, value) => {
      const x = Buffer.from(key).toString("base64url");
      const made = crypto.createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
      return crypto.verify(null, content, made, value);
    });
  }
}

/** onnxruntime-web, in this page. */
export class WebRuntime extends Runtime {
  constructor(ort) {
    const names = { CPUExecutionProvider: "wasm" };
    if (globalThis.navigator?.gpu) names.WebGpuExecutionProvider = names.JsExecutionProvider = "webgpu";
    if (globalThis.navigator?.ml) names.WebNNExecutionProvider = "webnn";
    super(ort, names);
  }

  version() {
    return this.ort.env.versions.web ?? this.ort.env.versions.common;
  }

  platform() {
    return "browser";
  }

  architecture() {
    return "wasm32";
  }

  cpuFeatures() {
    return null;
  }

  peakBytes() {
    return null;
  }

  checkSignature(manifest, signature, publicKey) {
    return checkSignature(manifest, signature, publicKey, async (key, content, value) => {
      let made;
      try {
        made = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
      } catch (error) {
        throw new Broken(`signature not checked: this browser does not know Ed25519 (${error.name})`);
      }
      return crypto.subtle.verify({ name: "Ed25519" }, made, value, content);
    });
  }
}
