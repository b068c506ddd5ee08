// manifest.json of a bundle, schema 3: what libgne needs of it. googlenet_edge/engines/bundle.py writes it.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "bytes.hpp"

namespace gne_sdk {

constexpr int64_t kSchema = 3;

constexpr const char* kCalibration = "calibration.cache";  // of an INT8 model for a DLA
constexpr const char *kMain = "main", *kDla = "dla";  // the units of a device

enum class Precision { kFp32, kFp16, kInt8 };

struct FileRecord {
  uint64_t size;
  std::string sha256;
};

struct Manifest {
  Precision precision;
  std::string device;
  std::string unit;
  uint32_t resize;
  uint32_t crop;
  int weight_bits;  // of INT8, 7 or 8; see session.hpp
  std::map<std::string, FileRecord, std::less<>> files;
};

const char* name_of(Precision precision);

// Reads and verifies a manifest; `where` names it in messages. Throws Failure with GNE_BAD_BUNDLE.
Manifest read_manifest(Bytes text, const std::string& where);

}  // namespace gne_sdk
