#include "dtype.h"

#include "error.h"

namespace ingot {
namespace {

constexpr DLDataType Type(DLDataTypeCode code, uint8_t bits) { return {static_cast<uint8_t>(code), bits, 1}; }

constexpr DType kTypes[] = {
    {"float32", Type(kDLFloat, 32), 4},
    {"int64", Type(kDLInt, 64), 8},
    {"int32", Type(kDLInt, 32), 4},
    {"bool", Type(kDLBool, 8), 1},
    {"uint8", Type(kDLUInt, 8), 1},
    {"int8", Type(kDLInt, 8), 1},
    {"float16", Type(kDLFloat, 16), 2},
    {"bfloat16", Type(kDLBfloat, 16), 2},
    {"float64", Type(kDLFloat, 64), 8},
    {"int16", Type(kDLInt, 16), 2},
    {"uint16", Type(kDLUInt, 16), 2},
    {"uint32", Type(kDLUInt, 32), 4},
    {"uint64", Type(kDLUInt, 64), 8},
    {"int4", Type(kDLInt, 4), 1},
    {"uint4", Type(kDLUInt, 4), 1},
    {"int2", Type(kDLInt, 2), 1},
    {"uint2", Type(kDLUInt, 2), 1},
    {"float8_e4m3fn", Type(kDLFloat8_e4m3fn, 8), 1},
    {"float8_e5m2", Type(kDLFloat8_e5m2, 8), 1},
    {"float8_e4m3fnuz", Type(kDLFloat8_e4m3fnuz, 8), 1},
    {"float8_e5m2fnuz", Type(kDLFloat8_e5m2fnuz, 8), 1},
    {"float8_e8m0fnu", Type(kDLFloat8_e8m0fnu, 8), 1},
    {"float4_e2m1fn", Type(kDLFloat4_e2m1fn, 4), 1},
    {"complex64", Type(kDLComplex, 64), 8},
    {"complex128", Type(kDLComplex, 128), 16},
    {"string", Type(kDLOpaqueHandle, 128), 16},  // ingot_string
};

}  // namespace

const DType* FindDType(std::string_view name) {
  for (const DType& row : kTypes) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

const DType* FindDType(DLDataType type) {
  for (const DType& row : kTypes) {
    if (row.type == type) return &row;
  }
  return nullptr;
}

std::string DTypeText(DLDataType type) {
  if (const DType* row = FindDType(type)) return std::string(row->name);
  return Text("DLPack type (code ", type.code, ", bits ", type.bits, ", lanes ", type.lanes, ")");
}

}  // namespace ingot
