// A model in ONNX Runtime, by its C API, with the session options of a manifest.

#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "files.h"

using Arrays = std::map<std::string, Array>;

inline const OrtApi* api() {
  static const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!found) throw Broken(std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() + " is older than the header");
  return found;
}

inline void check(OrtStatus* status, const std::string& what) {
  if (!status) return;
  std::string why = api()->GetErrorMessage(status);
  api()->ReleaseStatus(status);
  throw Broken(what + ": " + why);
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
    if (settings.has("order"))  // the C API has no word for it
      note = "; the order of the file cannot be asked for here";
    for (const auto& [key, value] : settings["config"].keys)
      check(api()->AddSessionConfigEntry(made, key.c_str(), value.text.c_str()), failure);
    for (const Json& provider : settings["providers"].items) append(made, provider, failure);
    OrtSession* session = nullptr;
    check(api()->CreateSession(env, path.c_str(), made, &session), failure);
    session_.reset(session);
  }

  std::string note;

  Arrays run(const Arrays& feeds, const std::vector<std::string>& outputs) {
    std::vector<OrtValue*> results = compute(feeds, outputs);
    Arrays found;
    for (size_t i = 0; i < outputs.size(); ++i) {
      found[outputs[i]] = array_of(results[i], outputs[i]);
      api()->ReleaseValue(results[i]);
    }
    return found;
  }

  // What is timed: a run whose results are not looked at.
  void run_blindly(const Arrays& feeds, const std::vector<std::string>& outputs) {
    for (OrtValue* result : compute(feeds, outputs)) api()->ReleaseValue(result);
  }

 private:
  // The caller releases what is returned.
  std::vector<OrtValue*> compute(const Arrays& feeds, const std::vector<std::string>& outputs) {
    OrtMemoryInfo* memory = nullptr;
    check(api()->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "no memory");
    Owned<OrtMemoryInfo> owner(memory, api()->ReleaseMemoryInfo);
    std::vector<const char*> names, wanted;
    std::vector<Owned<OrtValue>> owners;
    std::vector<OrtValue*> values, results(outputs.size(), nullptr);
    for (const auto& [name, array] : feeds) {
      OrtValue* value = nullptr;
      check(api()->CreateTensorWithDataAsOrtValue(memory, const_cast<char*>(array.bytes.data()), array.bytes.size(), array.dims.data(),
                                                  array.dims.size(), onnx_type(array.type), &value),
            "the input `" + name + "` cannot be made");
      owners.emplace_back(value, api()->ReleaseValue);
      names.push_back(name.c_str());
      values.push_back(value);
    }
    for (const std::string& name : outputs) wanted.push_back(name.c_str());
    check(api()->Run(session_.get(), nullptr, names.data(), values.data(), values.size(), wanted.data(), wanted.size(), results.data()),
          "the runtime does not run the model");
    return results;
  }

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
