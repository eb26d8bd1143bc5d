// What the instruction sets implement, and the data that they share with the code around them. Plain data only: an
// inline function in a file that is compiled for AVX2 could be the one that the linker keeps for all machines.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ingot::quantized_matmul {

constexpr int64_t kPanel = 16;  // rows of W in a panel: columns of Y
constexpr int64_t kStep = 8;    // k in a step of the packed weights
// k between additions to the sums in float32, where X is bytes; half of it where X is words. What products in integers
// of 8 bits add up to is below 2^24 (1024 * 127 * 128), so that it is exact as a float; and weights and rows of a tile
// stay in a first-level cache of 32 KiB.
constexpr int64_t kChunk = 1024;
// k that are turned into floats at a time: 16 columns of it are 16 KiB.
constexpr int64_t kFloatChunk = 256;
// At most so many rows share what is read of the weights: kChunk int8 of each are 144 KiB, which stay in a second-level
// cache of 512 KiB beside the sums. A multiple of the rows of every tile.
constexpr int64_t kBlockRows = 144;
// Panels that a tile takes at once.
constexpr int64_t kMostPanels = 2;
// Panels that a single row takes at once.
constexpr int64_t kMostStreams = 4;
// Panels that share what is read of X.
constexpr int64_t kBlockPanels = 8;
// Up to so many rows, weights are turned into floats in registers only: reading them is what takes the time.
constexpr int64_t kMostDirectRows = 4;
constexpr int64_t kLeastGroup = 16;

enum class Element : uint8_t { kFloat, kHalf, kBfloat, kPower, kByte };
enum class Codes : uint8_t { kBytes, kNibbles, kTable };  // of packed weights
enum class Activation : uint8_t { kNone, kRelu, kGelu, kGeluTanh, kSilu };

struct Problem {
  const std::byte* x;
  const uint8_t* weights;
  const std::byte* scales;
  const std::byte* zeros;     // nullptr if there are none
  const float* bias;          // nullptr if there is none
  const std::byte* residual;  // nullptr if there is none
  std::byte* y;
  Element type;  // of X, the residual and Y
  Element scale_type;
  Element zero_type;
  Codes codes;
  Activation activation;
  bool integer;  // products in integers
  int64_t rows, columns, depth;
  int64_t panels;
  int64_t steps;  // of a panel
  int64_t panel_bytes;
  int64_t groups;             // scales of a column
  int64_t group;              // k that share a scale; the whole row is steps * kStep
  int64_t run;                // k whose products are added up in integers; divides kChunk
  int64_t x_group;            // k of X that share a scale
  const float* table_floats;  // [16], of Codes::kTable
  const int8_t* table_bytes;  // [16]: the table in integers
  float table_unit;           // what one of those integers stands for; 1 if there is no table
};

// X in integers, in tiles: of row r, of a tile of t rows that starts at row b, the k of step i lie at
//   values[(b * steps + i * t + (r - b)) * kStep]
// and what belongs to run j at [b * runs + j * t + (r - b)]. Rows that fill a tile up are zeros.
struct QuantizedRows {
  void* values;
  float* scales;
  int32_t* starts;  // -offset * sum: what makes the sum of products with codes + offset one of products with codes
  float* sums;      // of the values
};

// Rows and panels of Y that one thread computes at a time.
struct Unit {
  int64_t first_row, end_row;
  int64_t first_panel, end_panel;
};

struct Scratch {
  QuantizedRows rows;  // of all threads; row 0 is `base_row` of the problem
  int64_t base_row;
  float* staging;  // [steps * kStep]: a row of X as floats
  float* sums;     // [panels and rows of a unit, kPanel]
  float* scales;   // [kMostPanels, kChunk / kLeastGroup, kPanel]
  float* zeros;    // [kMostPanels, kChunk / kLeastGroup, kPanel]
  float* panel;    // [kFloatChunk, kPanel]: weights as floats
  void* expanded;  // [kMostPanels, kChunk, kPanel] bytes: weights as an engine multiplies them
  float* x;        // [kBlockRows, kFloatChunk] or [kMostDirectRows, depth]: X as floats
};

// What an instruction set does with codes of one kind in integers.
struct IntegerTraits {
  int64_t tile_rows;     // a multiple of which scratch memory has room for
  int64_t most_run;      // k that it can add up exactly
  int64_t operand_size;  // bytes of a value of X
  int64_t block_rows;    // at most so many rows share what is read of the weights; a multiple of twice tile_rows
  int64_t block_panels;  // at most so many panels share what is read of X
  int64_t depth;         // rows of X are padded to a multiple of it
};

struct Path {
  IntegerTraits nibbles;
  IntegerTraits bytes;  // and tables
  // Rounds rows [first, end), which start at a multiple of tile_rows from the base row.
  void (*quantize)(const Problem& problem, const Scratch& scratch, int64_t first, int64_t end);
  void (*multiply)(const Problem& problem, const Scratch& scratch, const Unit& unit);
  // What takes its place where products are not in integers, or rows or runs are fewer or shorter; nullptr if nothing.
  const Path* otherwise = nullptr;
  int64_t least_rows = 0;
  int64_t least_run = 0;
  int64_t least_rows_by_run = 0;  // their product
};

extern const Path kPathScalar;
#if defined(__x86_64__)
extern const Path kPathAvx2;
extern const Path kPathAvxVnni;
extern const Path kPathAvx512;
extern const Path kPathAvx512Vnni;
extern const Path kPathAmx;
#elif defined(__aarch64__)
extern const Path kPathNeon;
extern const Path kPathNeonDotprod;
extern const Path kPathNeonI8mm;
#endif

}  // namespace ingot::quantized_matmul
