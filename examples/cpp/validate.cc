// Check a graphopt bundle with nothing but the C API of ONNX Runtime:
// validate BUNDLE [--json] [--latency] [--public-key FILE|KEY]
//
//   c++ -std=c++17 -O2 -I INCLUDE validate.cc -o validate LIBRARY/libonnxruntime.so.1 -Wl,-rpath,LIBRARY
//
// The checks, the JSON and the exit status are those of the bundle's validate.py: 0 all is well; 1
// wrong numbers or a missed goal; 2 a damaged bundle, an unknown schema, or a device that does not
// keep the contract, after which nothing more is checked. Every variant is checked. Signatures are
// checked where it is built with libsodium (signature.h), and refused where not. Text is not fed or
// compared. Beside the program lies manifest.schema.json. For Linux.

#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <iostream>
#include <memory>
#include <set>

#include "files.h"
#include "json.h"
#include "model.h"
#include "numbers.h"
#include "signature.h"
#include "stopwatch.h"

namespace {

constexpr uintmax_t kMaxManifestBytes = 64u << 20;
const char* const kStatus[] = {"ok", "wrong", "broken"};

// What the command line asks for.
struct Wishes {
  bool json = false, latency = false, has_key = false;
  std::string bundle, key;
};

std::vector<int> version_key(const std::string& text) {
  std::vector<int> key;
  bool is_inside = false;  // of a number; the schema says that none has more than six digits
  for (unsigned char sign : text) {
    if (std::isdigit(sign) && !is_inside) key.push_back(0);
    is_inside = std::isdigit(sign);
    if (is_inside) key.back() = (key.back() * 10 + sign - '0') % 100000000;
  }
  key.resize(std::min<size_t>(key.size(), 3));
  return key;
}

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char sign) { return std::tolower(sign); });
  return text;
}

bool is_safe_name(const std::string& name) {
  auto is_unsafe = [](unsigned char sign) { return sign < 0x20 || std::strchr("\\:*?\"<>|", sign); };
  std::string part;
  std::istringstream parts(name);
  if (name.empty() || name.back() == '/' || name.find('\0') != std::string::npos) return false;
  while (std::getline(parts, part, '/'))
    if (part.empty() || part.back() == '.' || part.back() == ' ' || std::any_of(part.begin(), part.end(), is_unsafe)) return false;
  return lower_case(name) != "manifest.json" && lower_case(name) != "manifest.json.minisig";
}

std::string machine() {
  utsname system{};
  uname(&system);
  return system.machine;
}

std::set<std::string> cpu_features() {
  std::ifstream stream("/proc/cpuinfo");
  // An emulator may show the processor that it runs on, which has another word for them.
  std::string line, word, title = machine() == "aarch64" ? "Features" : "flags";
  std::set<std::string> common;
  bool is_first = true;
  while (std::getline(stream, line)) {
    if (line.compare(0, title.size(), title) != 0 || line.find(':') == std::string::npos) continue;
    if (line.find_first_not_of(" \t", title.size()) != line.find(':')) continue;  // as `vmx flags`
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

// Spell out what a terminal could not show, or would obey.
std::string plain(const std::string& text) {
  std::string found;
  char code[8];
  for (unsigned char sign : text) {
    std::snprintf(code, sizeof code, sign >= ' ' && sign <= '~' ? "%c" : "\\x%02x", sign);
    found += code;
  }
  return found;
}

class Validation {
 public:
  Validation(Wishes wishes, fs::path program)
      : wishes_(std::move(wishes)), folder_(wishes_.bundle), program_(std::move(program)) {}

  int run() {
    using Check = std::string (Validation::*)();
    const std::pair<const char*, Check> checks[] = {
        {"signature", &Validation::signature}, {"manifest", &Validation::manifest}, {"files", &Validation::files},
        {"device", &Validation::device}, {"load", &Validation::load}, {"numbers", &Validation::numbers},
        {"inputs", &Validation::inputs}, {"memory", &Validation::memory}, {"gates", &Validation::gates},
        {"latency", &Validation::latency}};
    int code = 0;
    for (const auto& [name, method] : checks) {
      if (name == std::string("inputs") && !manifest_.has("preprocessing")) continue;
      if (name == std::string("signature") && !wishes_.has_key) continue;
      auto [status, detail, more] = outcome(method);
      code = std::max(code, more);
      told_.push_back({name, status, detail});
      if (code == 2) break;
    }
    std::cout << (wishes_.json ? document(code) : lines(code)) << std::flush;
    return code;
  }

 private:
  struct Told {
    std::string name, status, detail;
  };

  std::tuple<std::string, std::string, int> outcome(std::string (Validation::*method)()) {
    try {
      return {"passed", (this->*method)(), 0};
    } catch (const Skipped& error) {
      return {"skipped", error.what(), 0};
    } catch (const Wrong& error) {
      return {"failed", error.what(), 1};
    } catch (const std::exception& error) {  // Broken, and what the filesystem throws
      return {"failed", error.what(), 2};
    }
  }

  std::string document(int code) const {
    std::ostringstream text;
    text << "{\n  \"schema_version\": 1,\n  \"status\": " << json_text(kStatus[code]) << ",\n  \"exit_code\": " << code << ",\n  \"checks\": [";
    const char* between = "\n";
    for (const Told& one : told_) {
      text << between << "    {\"name\": " << json_text(one.name) << ", \"status\": " << json_text(one.status)
           << ", \"detail\": " << json_text(one.detail) << "}";
      between = ",\n";
    }
    text << "\n  ],\n  \"outputs\": {" << outputs_json() << "},\n  \"latency\": " << (latency_ ? latency_->json() : "null");
    if (!digest_.empty()) text << ",\n  \"manifest_sha256\": " << json_text(digest_);
    text << "\n}\n";
    return text.str();
  }

  std::string lines(int code) const {
    std::string text;
    auto padded = [](std::string word, size_t width) { return word.resize(std::max(width, word.size()), ' '), word + " "; };
    for (const Told& one : told_) text += plain(padded(one.status, 7) + padded(one.name, 9) + one.detail) + "\n";
    return text + kStatus[code] + "\n";
  }

  std::string signature() {
    PublicKey key = read_public_key(wishes_.key);
    std::string manifest = read_file(folder_ / "manifest.json", kMaxManifestBytes, "manifest.json");
    return check_signature(manifest, read_file(folder_ / "manifest.json.minisig", kMaxSignatureBytes, "manifest.json.minisig"), key);
  }

  std::string manifest() {
    std::string text = read_file(folder_ / "manifest.json", kMaxManifestBytes, "manifest.json");
    std::string schema_text = read_file(program_ / "manifest.schema.json", kMaxManifestBytes, "manifest.schema.json");
    manifest_ = JsonReader(text).whole();
    Json schema = JsonReader(schema_text).whole();
    const Json version = manifest_.has("schema_version") ? manifest_["schema_version"] : Json();
    if (version.kind == Json::kInteger && version.number != 1) throw Broken("unknown schema version " + numeral(version.number) + ", expected 1");
    check_schema(manifest_, schema, schema["$defs"], "");
    std::set<std::string> lower;
    for (const auto& [name, facts] : manifest_["files"].keys) {
      if (!is_safe_name(name)) throw Broken("`manifest.json` is inconsistent: " + json_text(name) + " is not a plain relative path");
      if (!lower.insert(lower_case(name)).second)
        throw Broken("`manifest.json` is inconsistent: two names differ in case alone, which is one file on some systems");
    }
    check_variants();
    check_counts();
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

  // A list of the names that a manifest implies could fill the memory.
  void check_counts() const {
    std::vector<Json> recorded = {manifest_["golden"]};
    for (const Json& variant : variants()) recorded.push_back(variant["golden"]);
    if (manifest_.has("preprocessing")) recorded.push_back(manifest_["preprocessing"]);
    for (const Json& told : recorded)
      if (told["samples"].count() > manifest_["files"].keys.size())
        throw Broken("`manifest.json` is inconsistent: it has more recorded samples than files");
  }

  // What the manifest implies, which a schema cannot say.
  std::vector<std::string> needed_files() const {
    std::vector<std::string> needed = {manifest_["model"]["file"].text};
    auto add_records = [&](const Json& golden, const std::string& prefix) {
      for (size_t index = 0; index < samples(golden); ++index)
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
    for (size_t index = 0; told["vector"].kind != Json::kNull && index < samples(told); ++index)
      needed.push_back("golden/vectors/" + std::to_string(index) + ".npz");
    return needed;
  }

  std::string files() {
    std::map<std::string, const Json*> known;  // in the order of their names
    for (const auto& [name, facts] : manifest_["files"].keys) known[name] = &facts;
    bool is_signed = false;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      std::string name = entry.path().lexically_relative(folder_).generic_string();
      fs::file_status status = entry.symlink_status();
      if (!fs::is_regular_file(status) && !fs::is_directory(status)) throw Broken("`" + name + "` is a link or a special file");
      is_signed |= name == "manifest.json.minisig" && fs::is_regular_file(status);
      if (fs::is_regular_file(status) && !known.count(name) && name != "manifest.json" && name != "manifest.json.minisig")
        throw Broken("`" + name + "` is not in the manifest");
    }
    for (const auto& [name, facts] : known) {
      if (!fs::is_regular_file(folder_ / name)) throw Broken("`" + name + "` is missing");
      bool has_size = static_cast<double>(fs::file_size(folder_ / name)) == (*facts)["size_bytes"].number;
      if (!has_size || file_sha256(folder_ / name) != (*facts)["sha256"].text)
        throw Broken("`" + name + "` was changed: it is not what the manifest says");
    }
    for (const auto& [name, facts] : known)
      if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npz") == 0)
        check_record(read_file(folder_ / name, (*facts)["size_bytes"].count(), name), name);
    bool is_unchecked = is_signed && !wishes_.has_key;
    return std::to_string(known.size()) + " files are unchanged" + (is_unchecked ? "; signed, which was not checked: no public key was given" : "");
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
    std::vector<std::string> wanted = device.has("architectures") ? texts(device["architectures"]) : std::vector<std::string>{};
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), machine()) == wanted.end())
      throw Broken("it is for " + joined(wanted, " or ") + ", this machine is " + machine());
    features_ = cpu_features();
    for (const Json& one : device["cpu_features"].items)
      if (!features_.empty() && !features_.count(one.text)) lacking.push_back(one.text);
    std::sort(lacking.begin(), lacking.end());
    if (!lacking.empty()) throw Broken("the CPU lacks " + joined(lacking));
    return "onnxruntime " + version + ", " + joined(names) + (features_.empty() ? "; this system does not tell what its CPU can do" : "");
  }

  void refuse_files(const Json& options) const {
    for (const auto& [key, value] : options.keys)  // some options name a library, which the runtime then executes
      if (value.text.find_first_of("/\\") != std::string::npos || manifest_["files"].has(value.text))
        throw Broken("the session option " + json_text(value.text) + " names a file, which is not allowed");
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
    for (size_t index = 0; index < samples(golden); ++index) {
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
    std::sort(lacking.begin(), lacking.end());
    return lacking.empty() ? "" : "; this CPU lacks " + joined(lacking) + " of the one before";
  }

  std::string inputs() { throw Skipped("texts, images and recordings are not prepared here: the recorded inputs were run"); }

  bool has_same_kernels() const {
    const Json& verified = manifest_["verified_on"];
    if (verified.kind == Json::kNull || manifest_["session"]["threads"].number <= 0 || verified["onnxruntime"].text != OrtGetApiBase()->GetVersionString() ||
        verified["platform"].text != "Linux-" + machine())
      return false;
    static const std::regex kernels(  // those by which the runtime chooses its kernels
        "ssse3|sse4_[12]|f16c|fma|avx.*|amx.*|neon|asimd.*|fphp|i8mm|bf16|sve[0-9]*|sme[0-9]*");
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
      Array array = thinned(values.at(name), rule["stride"].count());
      if (rule["compare"].text == "shape" && array.dims == recorded.at(name).dims) continue;
      Difference found = difference(recorded.at(name), array);
      auto place = std::find_if(worst_.begin(), worst_.end(), [&key = name](const auto& one) { return one.first == key; });
      if (place == worst_.end()) place = worst_.insert(place, {name, {}});
      if (auto [worst, is_new] = place->second.emplace(kind, found); !is_new) worst->second.add(found);
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
    size_t peak = 0, limit = manifest_["device"]["maximum_memory_bytes"].count();
    while (std::getline(stream, line))
      if (line.compare(0, 6, "VmHWM:") == 0) peak = std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
    if (limit && peak > limit)
      throw Broken(std::to_string(peak) + " bytes were resident, the device contract allows " + std::to_string(limit));
    return peak ? std::to_string(peak) + " bytes resident at most" : "this system does not tell";
  }

  std::string gates() {
    std::vector<std::string> missed, unknown;
    for (const Json& gate : manifest_["gates"].items) {
      if (gate["passed"].kind == Json::kNull) unknown.push_back(gate["name"].text);
      else if (!gate["passed"].boolean) missed.push_back(gate["name"].text + " is " + known(gate["value"]) + ", limit " + known(gate["limit"]));
    }
    if (!manifest_["gates_met"].boolean) throw Wrong("made with a missed goal: " + joined(missed, "; "));
    return "met where the bundle was made" + (unknown.empty() ? "" : "; not measured: " + joined(unknown));
  }

  std::string latency() {
    const Json& golden = manifest_["golden"];
    if (!wishes_.latency || !samples(golden)) return "not measured";
    Arrays feeds = record("", "inputs", 0);
    std::vector<std::string> names;
    for (const auto& [name, rule] : golden["outputs"].keys) names.push_back(name);
    latency_ = std::make_unique<Latency>(measure([&] { model_->run_blindly(feeds, names); }));
    return latency_->sentence();
  }

  static std::vector<std::string> texts(const Json& list) {
    std::vector<std::string> found;
    for (const Json& one : list.items) found.push_back(one.text);
    return found;
  }

  static size_t samples(const Json& golden) { return golden["samples"].count(); }

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

  static std::string golden_name(const std::string& prefix, const std::string& kind, size_t index) {
    return prefix + "golden/" + kind + "/" + std::to_string(index) + ".npz";
  }

  Arrays record(const std::string& prefix, const std::string& kind, size_t index) const {
    std::string name = golden_name(prefix, kind, index);
    try {
      return read_npz(read_file(folder_ / name, manifest_["files"][name]["size_bytes"].count(), name));
    } catch (const std::exception& error) {
      throw Broken("`" + name + "` cannot be read: " + error.what());
    }
  }

  static std::string known(const Json& value) { return value.kind == Json::kNull ? "not known" : shown(value.number); }

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

  Wishes wishes_;
  fs::path folder_, program_;
  Json manifest_;
  std::string digest_, bound_;
  std::set<std::string> features_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Latency> latency_;
  std::vector<Told> told_;
  std::vector<std::pair<std::string, std::map<std::string, Difference>>> worst_;  // in the order of the outputs
};

// A public key that was given as a file or as its text.
std::string key_text(const std::string& given) {
  std::error_code none;
  return fs::is_regular_file(given, none) ? read_file(given, kMaxSignatureBytes, given) : given;
}

}  // namespace

int main(int count, char** words) {
  Wishes wishes;
  bool is_understood = true, wants_help = false;
  for (int index = 1; index < count; ++index) {
    std::string word = words[index];
    if (word == "--json") wishes.json = true;
    else if (word == "--latency") wishes.latency = true;
    else if (word == "--help") wants_help = true;
    else if (word == "--public-key" && index + 1 < count) wishes.has_key = true, wishes.key = words[++index];
    else if (word.empty() || word[0] == '-' || !wishes.bundle.empty()) is_understood = false;
    else wishes.bundle = word;
  }
  if (wants_help || !is_understood || wishes.bundle.empty()) {
    (wants_help ? std::cout : std::cerr) << "usage: validate BUNDLE [--json] [--latency] [--public-key FILE|KEY]\n";
    return wants_help ? 0 : 2;
  }
  try {
    if (wishes.has_key) wishes.key = key_text(wishes.key);
    // The schema that lies beside this program, whichever bundle is checked.
    return Validation(wishes, fs::read_symlink("/proc/self/exe").parent_path()).run();
  } catch (const std::exception& error) {
    std::cerr << "broken: " << error.what() << "\n";
    return 2;
  }
}
