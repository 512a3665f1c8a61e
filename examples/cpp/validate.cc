// Check a graphopt bundle with nothing but the C API of ONNX Runtime: validate BUNDLE [--json]
//
//   c++ -std=c++17 -O2 -I INCLUDE validate.cc -o validate LIBRARY/libonnxruntime.so.1 -Wl,-rpath,LIBRARY
//
// The checks, the JSON and the exit status are those of the bundle's validate.py: 0 all is well; 1
// wrong numbers or a missed goal; 2 a damaged bundle, an unknown schema, or a device that does not
// keep the contract, after which nothing more is checked. Every variant is checked. Latency and
// signatures are left to the other validators; text is not fed or compared. For Linux.

#include <onnxruntime_c_api.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <iostream>
#include <memory>
#include <set>

#include "files.h"
#include "json.h"

namespace {

constexpr uintmax_t kMaxManifestBytes = 64u << 20;
const char* const kStatus[] = {"ok", "wrong", "broken"};
using Arrays = std::map<std::string, Array>;

const OrtApi* api() {
  static const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!found) throw Broken(std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() + " is older than the header");
  return found;
}

void check(OrtStatus* status, const std::string& what) {
  if (!status) return;
  std::string why = api()->GetErrorMessage(status);
  api()->ReleaseStatus(status);
  throw Broken(what + ": " + why);
}

std::vector<int> version_key(const std::string& text) {
  std::vector<int> key;
  static const std::regex numerals("[0-9]+");
  for (std::sregex_iterator found(text.begin(), text.end(), numerals), none; found != none && key.size() < 3; ++found)
    key.push_back(std::stoi(found->str()));
  return key;
}

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char sign) { return std::tolower(sign); });
  return text;
}

bool is_safe_name(const std::string& name) {
  static const std::regex unsafe("[\\x01-\\x1f\\\\:*?\"<>|]");
  std::string part;
  std::istringstream parts(name);
  if (name.empty() || name.back() == '/' || name.find('\0') != std::string::npos) return false;
  while (std::getline(parts, part, '/'))
    if (part.empty() || part.back() == '.' || part.back() == ' ' || std::regex_search(part, unsafe)) return false;
  return lower_case(name) != "manifest.json" && lower_case(name) != "manifest.json.minisig";
}

std::set<std::string> cpu_features() {
  std::ifstream stream("/proc/cpuinfo");
  std::string line, word;
  std::set<std::string> common;
  bool is_first = true;
  while (std::getline(stream, line)) {
    if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0) continue;
    std::set<std::string> here, both;
    std::istringstream words(line.substr(line.find(':') + 1));
    while (words >> word) here.insert(word);
    std::set_intersection(here.begin(), here.end(), common.begin(), common.end(), std::inserter(both, both.end()));
    common = is_first ? here : both;
    is_first = false;
  }
  if (common.count("pni")) common.insert("sse3");
  if (common.count("asimd")) common.insert("neon");
  return common;
}

std::string joined(const std::vector<std::string>& words, const char* by = ", ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : by) + word;
  return text;
}

struct Difference {
  double error = INFINITY, cosine = -1, sqnr_db = -INFINITY;
  std::string mismatch;
};

Difference difference(const Array& reference, const Array& values) {
  Difference found;
  if (reference.dims != values.dims) {
    found.mismatch = "another shape than recorded";
    return found;
  }
  size_t size = reference.size();
  if (!reference.is_float() || !values.is_float()) {
    size_t equal = 0, width = reference.width();
    for (size_t i = 0; i < size && width == values.width(); ++i)
      equal += reference.bytes.compare(i * width, width, values.bytes, i * width, width) == 0;
    found.cosine = size ? static_cast<double>(equal) / static_cast<double>(size) : 1;
    found.error = 1 - found.cosine;
    found.sqnr_db = INFINITY;
    return found;
  }
  double largest = 0, aa = 0, bb = 0, ab = 0, dd = 0;
  bool same = true;
  for (size_t i = 0; i < size; ++i) {
    double a = reference.at(i), b = values.at(i);
    if (std::isnan(a) != std::isnan(b)) found.mismatch = "NaN at other positions";
    else if ((std::isinf(a) || std::isinf(b)) && a != b) found.mismatch = "infinity at other positions";
    if (std::isfinite(a)) largest = std::max(largest, std::fabs(a));
    same = same && (a == b || !std::isfinite(a));
  }
  if (!found.mismatch.empty()) return found;
  if (same) return {0, 1, INFINITY, ""};
  if (largest == 0) return {INFINITY, 0, -INFINITY, ""};
  found.error = 0;
  for (size_t i = 0; i < size; ++i) {
    double a = reference.at(i) / largest, b = values.at(i) / largest;  // squares must not overflow
    if (!std::isfinite(a)) continue;
    found.error = std::max(found.error, std::fabs(b - a));
    aa += a * a, bb += b * b, ab += a * b, dd += (b - a) * (b - a);
  }
  found.cosine = bb > 0 ? ab / std::sqrt(aa) / std::sqrt(bb) : 0;
  found.sqnr_db = 10 * std::log10(aa / dd);
  return found;
}

struct TypeName {
  const char* numpy;
  ONNXTensorElementDataType onnx;
};
const TypeName kTypes[] = {
    {"<f4", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}, {"<f8", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
    {"<f2", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}, {"<i8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {"<i4", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32}, {"<i2", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},
    {"|i1", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}, {"|u1", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {"<u2", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16}, {"<u4", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32},
    {"<u8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64}, {"|b1", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL}};

template <typename T>
using Owned = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

class Model {
 public:
  Model(const fs::path& path, const Json& settings) {
    static OrtEnv* env = nullptr;  // one for all models, as long as the program
    if (!env) check(api()->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "validate", &env), "the runtime does not start");
    OrtSessionOptions* made = nullptr;
    check(api()->CreateSessionOptions(&made), "the runtime does not start");
    Owned<OrtSessionOptions> options(made, api()->ReleaseSessionOptions);
    const std::map<std::string, GraphOptimizationLevel> levels = {
        {"disabled", ORT_DISABLE_ALL}, {"basic", ORT_ENABLE_BASIC}, {"extended", ORT_ENABLE_EXTENDED}, {"all", ORT_ENABLE_ALL}};
    const std::string failure = "the runtime does not load the model";
    check(api()->SetSessionGraphOptimizationLevel(made, levels.at(settings["optimization"].text)), failure);
    check(api()->SetIntraOpNumThreads(made, static_cast<int>(settings["threads"].number)), failure);
    check(api()->SetInterOpNumThreads(made, 1), failure);
    if (settings.has("order"))  // what `ExecutionOrder.PRIORITY_BASED` is called in a session's configuration
      note = "; the order of the file is not asked for here";
    for (const auto& [key, value] : settings["config"].keys)
      check(api()->AddSessionConfigEntry(made, key.c_str(), value.text.c_str()), failure);
    for (const Json& provider : settings["providers"].items) append(made, provider, failure);
    OrtSession* session = nullptr;
    check(api()->CreateSession(env, path.c_str(), made, &session), failure);
    session_.reset(session);
  }

  std::string note;

  Arrays run(const Arrays& feeds, const std::vector<std::string>& outputs) {
    OrtMemoryInfo* memory = nullptr;
    check(api()->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "no memory");
    std::vector<const char*> names, wanted;
    std::vector<OrtValue*> values, results(outputs.size(), nullptr);
    for (const auto& [name, array] : feeds) {
      OrtValue* value = nullptr;
      check(api()->CreateTensorWithDataAsOrtValue(memory, const_cast<char*>(array.bytes.data()), array.bytes.size(), array.dims.data(),
                                                  array.dims.size(), onnx_type(array.type), &value),
            "the input `" + name + "` cannot be made");
      names.push_back(name.c_str());
      values.push_back(value);
    }
    for (const std::string& name : outputs) wanted.push_back(name.c_str());
    OrtStatus* status = api()->Run(session_.get(), nullptr, names.data(), values.data(), values.size(), wanted.data(), wanted.size(), results.data());
    for (OrtValue* value : values) api()->ReleaseValue(value);
    api()->ReleaseMemoryInfo(memory);
    check(status, "the runtime does not run the model");
    Arrays found;
    for (size_t i = 0; i < outputs.size(); ++i) {
      found[outputs[i]] = array_of(results[i], outputs[i]);
      api()->ReleaseValue(results[i]);
    }
    return found;
  }

 private:
  static void append(OrtSessionOptions* options, const Json& provider, const std::string& failure) {
    std::string name = provider["name"].text;
    if (name == "CPUExecutionProvider") return;  // there in any case, last
    if (auto end = name.find("ExecutionProvider"); end != std::string::npos) name.resize(end);
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : provider["options"].keys) {
      keys.push_back(key.c_str());
      values.push_back(value.text.c_str());
    }
    check(api()->SessionOptionsAppendExecutionProvider(options, name.c_str(), keys.data(), values.data(), keys.size()), failure);
  }

  static ONNXTensorElementDataType onnx_type(const std::string& numpy) {
    for (const TypeName& type : kTypes)
      if (numpy == type.numpy) return type.onnx;
    throw Broken("arrays of " + numpy + " are not known here");
  }

  static Array array_of(OrtValue* value, const std::string& name) {
    OrtTensorTypeAndShapeInfo* facts = nullptr;
    check(api()->GetTensorTypeAndShape(value, &facts), "the output `" + name + "` is no tensor");
    Owned<OrtTensorTypeAndShapeInfo> owner(facts, api()->ReleaseTensorTypeAndShapeInfo);
    ONNXTensorElementDataType type;
    size_t rank = 0, size = 0;
    void* data = nullptr;
    check(api()->GetTensorElementType(facts, &type), "the output has no type");
    check(api()->GetDimensionsCount(facts, &rank), "the output has no shape");
    check(api()->GetTensorShapeElementCount(facts, &size), "the output has no shape");
    check(api()->GetTensorMutableData(value, &data), "the output has no values");
    Array array;
    array.dims.resize(rank);
    check(api()->GetDimensions(facts, array.dims.data(), rank), "the output has no shape");
    for (const TypeName& known : kTypes)
      if (known.onnx == type) array.type = known.numpy;
    if (array.type.empty()) throw Broken("the output `" + name + "` has a type that is not known here");
    array.bytes.assign(static_cast<const char*>(data), size * array.width());
    return array;
  }

  Owned<OrtSession> session_{nullptr, api()->ReleaseSession};
};

Array thinned(const Array& array, size_t stride) {
  if (stride == 1) return array;
  Array found;
  found.type = array.type;
  for (size_t i = 0; i < array.size(); i += stride) found.bytes += array.bytes.substr(i * array.width(), array.width());
  found.dims = {static_cast<int64_t>(found.size())};
  return found;
}

class Validation {
 public:
  Validation(fs::path folder, fs::path program) : folder_(std::move(folder)), program_(std::move(program)) {}

  int run(bool as_json) {
    using Check = std::string (Validation::*)();
    const std::pair<const char*, Check> checks[] = {
        {"manifest", &Validation::manifest}, {"files", &Validation::files}, {"device", &Validation::device}, {"load", &Validation::load},
        {"numbers", &Validation::numbers}, {"inputs", &Validation::inputs}, {"memory", &Validation::memory}, {"gates", &Validation::gates}, {"latency", &Validation::latency}};
    int code = 0;
    std::string document, text;
    for (const auto& [name, method] : checks) {
      if (name == std::string("inputs") && !manifest_.has("preprocessing")) continue;
      std::string status = "passed", detail;
      try {
        detail = (this->*method)();
      } catch (const Skipped& error) {
        status = "skipped", detail = error.what();
      } catch (const Wrong& error) {
        status = "failed", detail = error.what(), code = std::max(code, 1);
      } catch (const std::exception& error) {  // Broken, and what the filesystem throws
        status = "failed", detail = error.what(), code = 2;
      }
      document += (document.empty() ? "" : ",\n    ") + std::string("{\"name\": ") + json_text(name) + ", \"status\": " + json_text(status) + ", \"detail\": " + json_text(detail) + "}";
      std::string line = status + "  " + name;
      text += line + std::string(18 - std::min<size_t>(17, line.size()), ' ') + detail + "\n";
      if (code == 2) break;
    }
    if (as_json) std::cout << "{\n  \"schema_version\": 1,\n  \"status\": " << json_text(kStatus[code]) << ",\n  \"exit_code\": " << code << ",\n  \"checks\": [\n    " << document << "\n  ],\n  \"outputs\": {" << outputs_json() << "},\n  \"latency\": null" << (digest_.empty() ? "" : ",\n  \"manifest_sha256\": " + json_text(digest_)) << "\n}\n";
    else std::cout << text << kStatus[code] << "\n";
    return code;
  }

 private:
  std::string manifest() {
    std::string text = read_file(folder_ / "manifest.json", kMaxManifestBytes, "manifest.json");
    std::string schema_text = read_file(program_ / "manifest.schema.json", kMaxManifestBytes, "manifest.schema.json");
    manifest_ = JsonReader(text).whole();
    Json schema = JsonReader(schema_text).whole();
    if (manifest_.kind == Json::kObject && manifest_.has("schema_version") && manifest_["schema_version"].kind == Json::kInteger && manifest_["schema_version"].number != 1)
      throw Broken("unknown schema version " + numeral(manifest_["schema_version"].number) + ", expected 1");
    check_schema(manifest_, schema, schema["$defs"], "");
    std::set<std::string> lower;
    for (const auto& [name, facts] : manifest_["files"].keys) {
      if (!is_safe_name(name)) throw Broken("`manifest.json` is inconsistent: " + json_text(name) + " is not a plain relative path");
      if (!lower.insert(lower_case(name)).second)
        throw Broken("`manifest.json` is inconsistent: two names differ in case alone, which is one file on some systems");
    }
    check_variants();
    for (const std::string& name : needed_files())
      if (!manifest_["files"].has(name)) throw Broken("`manifest.json` is inconsistent: `" + name + "` is needed and not among the files");
    for (const Json& gate : manifest_["gates"].items)
      if (manifest_["gates_met"].boolean && gate["passed"].kind == Json::kBoolean && !gate["passed"].boolean)
        throw Broken("`manifest.json` is inconsistent: `gates_met` is true although a gate failed");
    digest_ = file_sha256(folder_ / "manifest.json");
    return "schema version 1, target " + manifest_["target"].text;
  }

  void check_variants() const {
    std::set<std::string> names;
    for (const Json& variant : variants())
      if (!names.insert(variant["name"].text).second) throw Broken("`manifest.json` is inconsistent: two variants have one name");
    if (!variants().empty() && variants()[0]["file"].text != manifest_["model"]["file"].text)
      throw Broken("`manifest.json` is inconsistent: the first variant is not the model");
  }

  // What the manifest implies, which a schema cannot say.
  std::vector<std::string> needed_files() const {
    std::vector<std::string> needed = {manifest_["model"]["file"].text};
    auto add_records = [&](const Json& golden, const std::string& prefix) {
      for (int index = 0; index < samples(golden); ++index)
        for (const std::string& kind : kinds()) needed.push_back(golden_name(prefix, kind, index));
    };
    add_records(manifest_["golden"], "");
    for (const Json& variant : other_variants()) {
      needed.push_back(variant["file"].text);
      add_records(variant["golden"], "variants/" + variant["name"].text + "/");
    }
    if (!manifest_.has("preprocessing")) return needed;
    const Json& told = manifest_["preprocessing"];
    needed.push_back(told["file"].text);
    needed.push_back("golden/raw.json");
    for (int index = 0; told["vector"].kind != Json::kNull && index < static_cast<int>(told["samples"].number); ++index)
      needed.push_back("golden/vectors/" + std::to_string(index) + ".npz");
    return needed;
  }

  std::string files() {
    const auto& known = manifest_["files"].keys;
    bool is_signed = false;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      std::string name = fs::relative(entry.path().parent_path(), folder_) == "." ? entry.path().filename().string() : (fs::relative(entry.path().parent_path(), folder_) / entry.path().filename()).generic_string();
      fs::file_status status = entry.symlink_status();
      if (!fs::is_regular_file(status) && !fs::is_directory(status)) throw Broken("`" + name + "` is a link or a special file");
      is_signed |= name == "manifest.json.minisig";
      if (fs::is_regular_file(status) && !known.count(name) && name != "manifest.json" && name != "manifest.json.minisig")
        throw Broken("`" + name + "` is not in the manifest");
    }
    for (const auto& [name, facts] : known) {
      if (!fs::is_regular_file(folder_ / name)) throw Broken("`" + name + "` is missing");
      if (static_cast<double>(fs::file_size(folder_ / name)) != facts["size_bytes"].number || file_sha256(folder_ / name) != facts["sha256"].text)
        throw Broken("`" + name + "` was changed: it is not what the manifest says");
    }
    for (const auto& [name, facts] : known)
      if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npz") == 0)
        check_record(read_file(folder_ / name, static_cast<uintmax_t>(facts["size_bytes"].number), name), name);
    return std::to_string(known.size()) + " files are unchanged" + (is_signed ? "; signed, which was not checked: no public key was given" : "");
  }

  std::string device() {
    const Json &device = manifest_["device"], &session = manifest_["session"];
    std::string version = OrtGetApiBase()->GetVersionString(), minimum = device["minimum_onnxruntime"].text;
    if (version_key(version) < version_key(minimum)) throw Broken("onnxruntime " + minimum + " or newer is needed, here is " + version);
    char** listed = nullptr;
    int count = 0;
    check(api()->GetAvailableProviders(&listed, &count), "the runtime does not tell its providers");
    std::vector<std::string> known(listed, listed + count), names, lacking;
    check(api()->ReleaseAvailableProviders(listed, count), "the runtime does not tell its providers");
    std::set<std::string> missing;
    for (const Json& provider : session["providers"].items) {
      names.push_back(provider["name"].text);
      if (std::find(known.begin(), known.end(), names.back()) == known.end()) missing.insert(names.back());
    }
    if (!missing.empty()) throw Broken(joined({missing.begin(), missing.end()}) + " is needed, here are only " + joined(known));
    refuse_files(session["config"]);
    for (const Json& provider : session["providers"].items) refuse_files(provider["options"]);
    utsname system{};
    uname(&system);
    if (device.has("architectures") && !device["architectures"].items.empty()) {
      bool fits = false;
      for (const Json& one : device["architectures"].items) fits |= one.text == system.machine;
      if (!fits) throw Broken(std::string("it is for other processors, this machine is ") + system.machine);
    }
    features_ = cpu_features();
    for (const Json& one : device["cpu_features"].items)
      if (!features_.empty() && !features_.count(one.text)) lacking.push_back(one.text);
    if (!lacking.empty()) throw Broken("the CPU lacks " + joined(lacking));
    return "onnxruntime " + version + ", " + joined(names) + (features_.empty() ? "; this system does not tell what its CPU can do" : "");
  }

  void refuse_files(const Json& options) const {
    for (const auto& [key, value] : options.keys)  // some options name a library, which the runtime then executes
      if (value.text.find_first_of("/\\") != std::string::npos || manifest_["files"].has(value.text))
        throw Broken("the session option '" + value.text + "' names a file, which is not allowed");
  }

  std::string load() {
    const std::string name = manifest_["model"]["file"].text;
    model_ = std::make_unique<Model>(fs::absolute(folder_ / name), manifest_["session"]);
    return "`" + name + "` loads with the recorded session options" + model_->note;
  }

  std::string numbers() {
    bool same = has_same_kernels();
    bound_ = same ? "same_kernels_bound" : "bound";
    const Json& golden = manifest_["golden"];
    std::vector<std::string> faults = disagreements(model_.get(), golden, "", "");
    for (const Json& variant : other_variants()) {
      const std::string& name = variant["name"].text;
      Model other(fs::absolute(folder_ / variant["file"].text), manifest_["session"]);
      for (const std::string& fault : disagreements(&other, variant["golden"], "variants/" + name + "/", "variant " + name + ": ")) faults.push_back(fault);
    }
    if (!faults.empty()) throw Wrong(joined(faults, "; ") + suspicion());
    const std::string& note = golden["note"].text;
    size_t others = other_variants().size();
    return std::string(same ? "the same" : "other") + " kernels, recorded samples that agree: " + std::to_string(samples(golden)) + (note.empty() ? "" : " (" + note + ")") +
           (others ? "; " + std::to_string(others) + " more variants agree with theirs" : "");
  }

  // Where a model gives other numbers than its records under `prefix` say; each is told once.
  std::vector<std::string> disagreements(Model* model, const Json& golden, const std::string& prefix, const std::string& whose) {
    std::vector<std::string> names, faults;
    for (const auto& [name, rule] : golden["outputs"].keys)
      if (rule["compare"].text != "nothing") names.push_back(name);
    for (int index = 0; index < samples(golden); ++index) {
      Arrays values = model->run(record(prefix, "inputs", index), names);
      for (const std::string& kind : kinds()) {
        if (kind == "inputs") continue;
        for (const std::string& found : compare(kind, record(prefix, kind, index), values, golden["outputs"]))
          if (std::find(faults.begin(), faults.end(), whose + found) == faults.end()) faults.push_back(whose + found);
      }
    }
    return faults;
  }

  std::string suspicion() const {
    const Json& verified = manifest_["verified_on"];
    std::vector<std::string> lacking;
    if (verified.kind == Json::kNull || features_.empty()) return "";
    for (const Json& one : verified["cpu_features"].items)
      if (!features_.count(one.text)) lacking.push_back(one.text);
    return lacking.empty() ? "" : "; this CPU lacks " + joined(lacking) + " of the one before";
  }

  std::string inputs() { throw Skipped("texts, images and recordings are not prepared here: the recorded inputs were run"); }

  bool has_same_kernels() const {
    const Json& verified = manifest_["verified_on"];
    utsname system{};
    uname(&system);
    if (verified.kind == Json::kNull || manifest_["session"]["threads"].number <= 0 || verified["onnxruntime"].text != OrtGetApiBase()->GetVersionString() ||
        verified["platform"].text != std::string(system.sysname) + "-" + system.machine)
      return false;
    static const std::regex kernels("ssse3|sse4_[12]|f16c|fma|avx.*|amx.*|neon|asimd.*|fphp|i8mm|bf16|sve[0-9]*|sme[0-9]*");
    std::set<std::string> here, there;
    for (const std::string& name : features_)
      if (std::regex_match(name, kernels)) here.insert(name);
    for (const Json& name : verified["cpu_features"].items) there.insert(name.text);
    return here == there;
  }

  std::vector<std::string> compare(const std::string& kind, const Arrays& recorded, const Arrays& values, const Json& rules) {
    std::vector<std::string> faults;
    for (const auto& [name, rule] : rules.keys) {
      if (rule["compare"].text == "nothing") continue;
      if (!values.count(name) || !recorded.count(name)) throw Broken("the output `" + name + "` is missing");
      Array array = thinned(values.at(name), static_cast<size_t>(rule["stride"].number));
      if (rule["compare"].text == "shape" && array.dims == recorded.at(name).dims) continue;
      Difference found = difference(recorded.at(name), array);
      auto [place, is_new] = worst_[name].emplace(kind, found);
      Difference& worst = place->second;
      worst.error = std::max(worst.error, found.error);
      worst.cosine = std::min(worst.cosine, found.cosine);
      worst.sqnr_db = std::min(worst.sqnr_db, found.sqnr_db);
      std::string head = "`" + name + "` against the " + kind + ": ";
      auto fault = [&](const std::string& what) { faults.push_back(head + what); };
      if (!found.mismatch.empty()) {
        fault(found.mismatch);
        continue;
      }
      auto limit = [&](const char* gate, double* value) {
        for (const Json& one : manifest_["gates"].items)
          if (kind == "original" && one["name"].text == gate) return *value = one["limit"].number, true;
        return false;
      };
      double allowed = 0;
      bool has_limit = kind == "model" || limit("max_rel_error", &allowed);
      double room = rule[bound_].number;  // for the kernels of another CPU
      if (has_limit && found.error > allowed + room) fault("error is " + shown(found.error) + ", allowed " + shown(allowed + room));
      if (limit("min_cosine", &allowed) && found.cosine < allowed) fault("cosine is " + shown(found.cosine) + ", allowed " + shown(allowed));
      if (limit("min_sqnr_db", &allowed) && found.sqnr_db < allowed) fault("sqnr_db is " + shown(found.sqnr_db) + ", allowed " + shown(allowed));
    }
    return faults;
  }

  std::string memory() {
    std::ifstream stream("/proc/self/status");
    std::string line;
    double peak = 0, limit = manifest_["device"]["maximum_memory_bytes"].number;
    while (std::getline(stream, line))
      if (line.compare(0, 6, "VmHWM:") == 0) peak = std::strtod(line.c_str() + 6, nullptr) * 1024;
    if (limit > 0 && peak > limit) throw Broken(shown(peak) + " bytes were resident, the device contract allows " + shown(limit));
    return peak > 0 ? std::to_string(static_cast<long long>(peak)) + " bytes resident at most" : "this system does not tell";
  }

  std::string gates() {
    std::vector<std::string> missed, unknown;
    for (const Json& gate : manifest_["gates"].items) {
      if (gate["passed"].kind == Json::kNull) unknown.push_back(gate["name"].text);
      else if (!gate["passed"].boolean) missed.push_back(gate["name"].text + " is " + shown(gate["value"].number) + ", limit " + shown(gate["limit"].number));
    }
    if (!manifest_["gates_met"].boolean) throw Wrong("made with a missed goal: " + joined(missed, "; "));
    return "met where the bundle was made" + (unknown.empty() ? "" : "; not measured: " + joined(unknown));
  }

  std::string latency() { return "not measured"; }

  static int samples(const Json& golden) { return static_cast<int>(golden["samples"].number); }

  std::vector<Json> variants() const { return manifest_.has("variants") ? manifest_["variants"].items : std::vector<Json>{}; }

  // The first one is the model by default, which the rest of the manifest tells of.
  std::vector<Json> other_variants() const {
    std::vector<Json> found = variants();
    if (!found.empty()) found.erase(found.begin());
    return found;
  }

  std::vector<std::string> kinds() const {
    if (manifest_["verified_on"].kind == Json::kNull) return {"inputs", "original"};
    return {"inputs", "model", "original"};
  }

  static std::string golden_name(const std::string& prefix, const std::string& kind, int index) {
    return prefix + "golden/" + kind + "/" + std::to_string(index) + ".npz";
  }

  Arrays record(const std::string& prefix, const std::string& kind, int index) const {
    std::string name = golden_name(prefix, kind, index);
    try {
      return read_npz(read_file(folder_ / name, static_cast<uintmax_t>(manifest_["files"][name]["size_bytes"].number), name));
    } catch (const std::exception& error) {
      throw Broken("`" + name + "` cannot be read: " + error.what());
    }
  }

  static std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", value);
    return text;
  }

  std::string outputs_json() const {
    std::string text;
    for (const auto& [name, by_kind] : worst_) {
      std::string inner;
      for (const auto& [kind, found] : by_kind)
        inner += (inner.empty() ? "" : ", ") + json_text(kind) + ": {\"error\": " + numeral(found.error) + ", \"cosine\": " + numeral(found.cosine) + ", \"sqnr_db\": " + numeral(found.sqnr_db) +
                 ", \"mismatch\": " + (found.mismatch.empty() ? "null" : json_text(found.mismatch)) + "}";
      text += (text.empty() ? "\n    " : ",\n    ") + json_text(name) + ": {" + inner + "}";
    }
    return text.empty() ? text : text + "\n  ";
  }

  fs::path folder_, program_;
  Json manifest_;
  std::string digest_, bound_;
  std::set<std::string> features_;
  std::unique_ptr<Model> model_;
  std::map<std::string, std::map<std::string, Difference>> worst_;
};

}  // namespace

int main(int count, char** words) {
  bool as_json = false;
  std::string bundle;
  for (int index = 1; index < count; ++index) {
    std::string word = words[index];
    if (word == "--json") as_json = true;
    else if (word[0] == '-' || !bundle.empty()) bundle = "-";
    else bundle = word;
  }
  if (bundle.empty() || bundle == "-") {
    std::cerr << "usage: validate BUNDLE [--json]\n";
    return 2;
  }
  // The schema that lies beside this program, whichever bundle is checked.
  return Validation(bundle, fs::read_symlink("/proc/self/exe").parent_path()).run(as_json);
}
