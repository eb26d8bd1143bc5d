// What a session remembers from run to run (docs/format.md, "States"): tensors that a run reads as inputs and leaves
// changed, a cache of keys in place, a hidden state as an output that becomes the next run's input.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "artifact.h"
#include "buffer.h"
#include "device.h"

namespace ingot {

class States {
 public:
  // `memory`: where they are.
  States(const Artifact& artifact, const TensorMemory& memory);

  size_t count() const { return slots_.size(); }
  // The number of extents of all states.
  size_t Ranks() const;
  // Whether the next run has to be prepared: its shapes or rows may not be those of the last one.
  bool changed() const { return changed_; }

  // The extent of a dimension that no input has, or that is to be larger than that of one run.
  void SetDimension(std::string_view name, int64_t extent);
  // Later runs see rows [first, first + count) of the batch; count 0: all.
  void SelectRows(int64_t first, int64_t count);

  // Makes the states ready for a run whose inputs have these extents by name; `extents` receives the shapes that the
  // run sees, one after another.
  void Prepare(const std::map<std::string, int64_t, std::less<>>& known, std::span<int64_t> extents);
  // The memory that a run sees of a state.
  void* Data(size_t index) const;
  // A run has left this in the output of a state that is carried.
  void Take(size_t index, const DLTensor& tensor);
  // A run has ended well.
  void MarkUsed() { fresh_ = false; }

  // row -1: all of them.
  void Reset(int64_t row);
  void Truncate(int64_t row, int64_t length);
  void CopyRow(int64_t from, int64_t to);
  void CopyFrom(const States& other);
  void Save(const std::string& path) const;
  void Load(const std::string& path);

  // A state as it is, all rows; its data may be read and written between runs.
  const DLTensor& Tensor(size_t index);
  // Copies a state, all rows, to the host and back. `bytes` has to be its size.
  void Read(size_t index, void* data, size_t bytes);
  void Write(size_t index, const void* data, size_t bytes);

 private:
  struct Slot {
    std::vector<int64_t> shape;  // of all rows
    std::unique_ptr<Arena> memory;
    DLTensor tensor{};
    bool counts = false;  // it is a counter of caches' steps
    // Of a counter on the CPU, a number for each row: rows with the same one hold the same steps in the caches that it
    // counts, which need not be copied from one to the other.
    std::vector<uint64_t> held;
  };

  const StateInfo& info(size_t index) const { return artifact_.states()[index]; }
  size_t Bytes(size_t index) const;
  size_t RowBytes(size_t index) const;
  int64_t Rows(size_t index) const { return slots_[index].shape[0]; }
  bool HasRows() const;
  // The counters of a cache's steps, one for each row.
  std::vector<int64_t> Lengths(size_t cache) const;
  // Rows of a counter hold something of their own from now on.
  void Renew(Slot& slot, int64_t begin, int64_t end);
  void RenewAll();
  // Whether the steps of a cache are the same in both rows.
  bool HoldSame(size_t cache, int64_t from, int64_t to) const;
  void CheckSize(size_t index, size_t bytes) const;
  void RequireMemory(const char* what) const;
  void CheckRow(int64_t row) const;
  // Memory of zeros.
  void Allocate(size_t index, std::vector<int64_t> shape);
  // Calls body(offset, bytes) for the stretches of a row of a state that hold something, of which `lengths` are the
  // counters.
  template <typename Body>
  void ForFilled(size_t index, int64_t row, std::span<const int64_t> lengths, Body&& body) const;
  // The bytes of a state on the host: as they are there, or a copy in `copy`.
  const std::byte* OnHost(size_t index, std::vector<std::byte>& copy) const;

  const Artifact& artifact_;
  const TensorMemory& memory_;
  std::vector<Slot> slots_;
  std::map<std::string, int64_t, std::less<>> dimensions_;
  int64_t first_row_ = 0;
  int64_t row_count_ = 0;  // 0: all
  bool allocated_ = false;
  bool fresh_ = true;  // nothing has been remembered yet
  bool changed_ = true;
};

}  // namespace ingot
