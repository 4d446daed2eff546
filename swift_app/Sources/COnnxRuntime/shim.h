// The types of ONNX Runtime's C API; its functions are found in the library when it is opened, see OnnxLibrary.swift.
#pragma once
#if __has_include(<onnxruntime/onnxruntime_c_api.h>)
#include <onnxruntime/onnxruntime_c_api.h>
#elif __has_include("/opt/homebrew/include/onnxruntime/onnxruntime_c_api.h")
#include "/opt/homebrew/include/onnxruntime/onnxruntime_c_api.h"
#else
#include "/usr/local/include/onnxruntime/onnxruntime_c_api.h"
#endif
