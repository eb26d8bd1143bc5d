#include "states.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "state_file.h"

namespace ingot {
namespace {

size_t Product(std::span<const int64_t> extents) {
  size_t product = 1;
  for (const int64_t extent : extents) product *= static_cast<size_t>(extent);
  return product;
}

}  // namespace

States::States(const Artifact& artifact, const TensorMemory& memory)
    : artifact_(artifact), memory_(memory), slots_(artifact.states().size()) {
  for (const StateInfo& state : artifact.states()) {
    if (state.kind == StateInfo::Kind::kCache) slots_[state.length].counts = true;
  }
}

void States::SetDimension(std::string_view name, int64_t extent) {
  const auto& dimensions = artifact_.dimensions();
  const auto found = std::ranges::find(dimensions, name, &Dimension::name);
  if (found == dimensions.end()) Fail(INGOT_ERROR_INVALID_ARGUMENT, "the model has no dimension '", name, "'");
  if (extent < 1) Fail(INGOT_ERROR_INVALID_ARGUMENT, "dimension '", name, "' is to be ", extent, "; it is at least 1");
  if (found->maximum != Dimension::kUnbounded && extent > found->maximum)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "dimension '", name, "' is to be ", extent, ", but was compiled for at most ",
         found->maximum);
  if (!fresh_)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "dimension '", name,
         "' cannot change while the session's states hold something; "
         "reset it first");
  changed_ = true;
  dimensions_.insert_or_assign(std::string(name), extent);
  allocated_ = false;
}

size_t States::Ranks() const {
  size_t ranks = 0;
  for (const StateInfo& state : artifact_.states()) ranks += state.shape.size();
  return ranks;
}

bool States::HasRows() const {
  const auto& states = artifact_.states();
  return std::ranges::all_of(
      states, [&](const StateInfo& state) { return !state.dims.empty() && state.dims[0] == states[0].dims[0]; });
}

void States::SelectRows(int64_t first, int64_t count) {
  if (slots_.empty()) Fail(INGOT_ERROR_INVALID_ARGUMENT, "the model has no states");
  if (!HasRows())
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "rows cannot be selected: axis 0 of the model's states is not one batch");
  const bool known = allocated_ || dimensions_.contains(artifact_.states()[0].dims[0]);
  const int64_t rows = allocated_ ? Rows(0) : known ? dimensions_.find(artifact_.states()[0].dims[0])->second : 0;
  if (count == 0 && first == 0) {
    changed_ = true;
    first_row_ = row_count_ = 0;
    return;
  }
  if (first < 0 || count < 1 || count > rows || first > rows - count)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "rows ", first, " to ", first + count - 1, " are selected, but the states have ",
         rows, known ? "" : " yet: set the dimension of their axis 0");
  changed_ = true;
  first_row_ = first;
  row_count_ = count;
}

void States::Allocate(size_t index, std::vector<int64_t> shape) {
  Slot& slot = slots_[index];
  const auto bytes = ByteCount(shape, info(index).dtype->bytes);
  if (!bytes)
    Fail(INGOT_ERROR_MEMORY, "state '", info(index).name, "' would have shape ", ShapeText(shape),
         ", which is beyond memory");
  slot.memory.reset();  // there may not be room for both
  auto memory = std::make_unique<Arena>(memory_.device());
  WithContext(Text("state '", info(index).name, "'"), [&] { memory->Reserve(std::max<size_t>(*bytes, 1)); });
  if (memory_.device() != nullptr) memory_.Zero(memory->data(), *bytes);
  slot.memory = std::move(memory);
  slot.shape = std::move(shape);
  Renew(slot, 0, slot.shape.empty() ? 0 : slot.shape[0]);
}

void States::Renew(Slot& slot, int64_t begin, int64_t end) {
  static std::atomic<uint64_t> next{0};
  if (!slot.counts) return;
  slot.held.resize(static_cast<size_t>(slot.shape[0]));
  for (int64_t row = begin; row < end; ++row) slot.held[static_cast<size_t>(row)] = next++;
}

void States::RenewAll() {
  for (Slot& slot : slots_) {
    if (slot.memory != nullptr) Renew(slot, 0, slot.shape.empty() ? 0 : slot.shape[0]);
  }
}

bool States::HoldSame(size_t cache, int64_t from, int64_t to) const {
  // Steps behind a ring's counter may lie where old ones were.
  if (info(cache).kind != StateInfo::Kind::kCache || info(cache).ring) return false;
  const std::vector<uint64_t>& held = slots_[info(cache).length].held;
  return held[static_cast<size_t>(from)] == held[static_cast<size_t>(to)];
}

void States::Prepare(const std::map<std::string, int64_t, std::less<>>& known, std::span<int64_t> extents) {
  const auto extent = [&](const StateInfo& state, size_t axis) -> int64_t {
    if (state.shape[axis] >= 0) return state.shape[axis];
    const std::string& name = state.dims[axis];
    if (const auto set = dimensions_.find(name); set != dimensions_.end()) return set->second;
    if (const auto given = known.find(name); given != known.end()) return given->second;
    const auto declared = std::ranges::find(artifact_.dimensions(), std::string_view(name), &Dimension::name);
    if (declared != artifact_.dimensions().end() && declared->maximum != Dimension::kUnbounded)
      return declared->maximum;
    if (state.kind == StateInfo::Kind::kCarry) return 0;  // what grows starts empty
    Fail(INGOT_ERROR_INPUT, "state '", state.name, "' has dimension '", name,
         "', which no input tells; set it for the session first");
  };
  if (fresh_) {
    // Nothing is lost by new shapes.
    allocated_ = false;
    for (size_t i = 0; i < slots_.size(); ++i) {
      std::vector<int64_t> shape;
      shape.reserve(info(i).shape.size());
      for (size_t axis = 0; axis < info(i).shape.size(); ++axis) shape.push_back(extent(info(i), axis));
      if (slots_[i].memory == nullptr || slots_[i].shape != shape) Allocate(i, std::move(shape));
    }
    allocated_ = true;
  }
  changed_ = false;
  if (row_count_ > 0 && first_row_ + row_count_ > Rows(0))
    Fail(INGOT_ERROR_INPUT, "rows ", first_row_, " to ", first_row_ + row_count_ - 1,
         " are selected, but the session's states have ", Rows(0),
         "; select others, or set the dimension of their axis 0");
  size_t next = 0;
  for (const Slot& slot : slots_) {
    for (size_t axis = 0; axis < slot.shape.size(); ++axis)
      extents[next++] = axis == 0 && row_count_ > 0 ? row_count_ : slot.shape[axis];
  }
  if (slots_.empty() || !HasRows()) return;
  const std::string& batch = artifact_.states()[0].dims[0];
  const auto given = known.find(batch);
  const int64_t rows = row_count_ > 0 ? row_count_ : Rows(0);
  if (given != known.end() && given->second != rows)
    Fail(INGOT_ERROR_INPUT, "the inputs have '", batch, "' = ", given->second, ", but the session's states have ", rows,
         row_count_ > 0 ? " selected rows" : " rows", fresh_ ? "" : "; reset the session to run with another number");
}

size_t States::Bytes(size_t index) const { return Product(slots_[index].shape) * info(index).dtype->bytes; }

size_t States::RowBytes(size_t index) const {
  return Product(std::span(slots_[index].shape).subspan(1)) * info(index).dtype->bytes;
}

void* States::Data(size_t index) const {
  const size_t offset = row_count_ > 0 ? static_cast<size_t>(first_row_) * RowBytes(index) : 0;
  return slots_[index].memory->data() + offset;
}

void States::Take(size_t index, const DLTensor& tensor) {
  Slot& slot = slots_[index];
  const std::span<const int64_t> shape(tensor.shape, static_cast<size_t>(tensor.ndim));
  const size_t bytes = ByteCount(shape, info(index).dtype->bytes).value_or(0);
  if (row_count_ > 0) {
    if (shape.empty() || shape[0] != row_count_ || !std::equal(shape.begin() + 1, shape.end(), slot.shape.begin() + 1))
      Fail(INGOT_ERROR_EXECUTION, "state '", info(index).name, "' changed its shape, which selected rows cannot");
  } else if (!std::ranges::equal(shape, slot.shape)) {
    changed_ = true;
    // It grows: room for half as much again, so that later steps need no new memory.
    if (bytes > slot.memory->size()) {
      auto larger = std::make_unique<Arena>(memory_.device());
      larger->Reserve(bytes + bytes / 2);
      slot.memory = std::move(larger);
    }
    slot.shape.assign(shape.begin(), shape.end());
    Renew(slot, 0, slot.shape.empty() ? 0 : slot.shape[0]);
  }
  if (slot.counts && memory_.device() == nullptr) {
    // A cache is written behind its counter, so that what a row holds is the same until the counter moves.
    const int64_t first = row_count_ > 0 ? first_row_ : 0;
    const auto* before = static_cast<const int64_t*>(Data(index));
    const auto* after = static_cast<const int64_t*>(tensor.data);
    for (int64_t row = 0; row < shape[0]; ++row) {
      if (before[row] != after[row]) Renew(slot, first + row, first + row + 1);
    }
  }
  if (bytes > 0 && memory_.device() == nullptr) {
    std::memmove(Data(index), tensor.data, bytes);
  } else if (Data(index) != tensor.data) {
    memory_.Copy(Data(index), tensor.data, bytes);
  }
}

void States::RequireMemory(const char* what) const {
  if (slots_.empty()) Fail(INGOT_ERROR_INVALID_ARGUMENT, "the model has no states to ", std::string_view(what));
  if (!allocated_)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "there is nothing to ", std::string_view(what), ": the session has not run yet");
}

void States::CheckRow(int64_t row) const {
  if (row != -1 && !HasRows())
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "axis 0 of the model's states is not one batch: use row -1, all of them");
  if (row < -1 || (row >= 0 && row >= Rows(0)))
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "there is no row ", row, "; the states have ", Rows(0));
}

std::vector<int64_t> States::Lengths(size_t cache) const {
  if (info(cache).kind != StateInfo::Kind::kCache) return {};
  const size_t counter = info(cache).length;
  std::vector<int64_t> lengths(static_cast<size_t>(Rows(counter)));
  memory_.Load(lengths.data(), slots_[counter].memory->data(), lengths.size() * sizeof(int64_t));
  return lengths;
}

const std::byte* States::OnHost(size_t index, std::vector<std::byte>& copy) const {
  const std::byte* data = slots_[index].memory->data();
  if (memory_.device() == nullptr) return data;
  copy.resize(Bytes(index));
  memory_.Load(copy.data(), data, copy.size());
  return copy.data();
}

template <typename Body>
void States::ForFilled(size_t index, int64_t row, std::span<const int64_t> lengths, Body&& body) const {
  const Slot& slot = slots_[index];
  const size_t start = static_cast<size_t>(row) * RowBytes(index);
  if (info(index).kind == StateInfo::Kind::kCarry) {
    body(start, RowBytes(index));
    return;
  }
  const auto axis = static_cast<size_t>(info(index).axis);
  const size_t outer = Product(std::span(slot.shape).subspan(1, axis - 1));
  const size_t step = Product(std::span(slot.shape).subspan(axis + 1)) * info(index).dtype->bytes;
  const int64_t steps = std::clamp<int64_t>(lengths[static_cast<size_t>(row)], 0, slot.shape[axis]);
  const size_t filled = static_cast<size_t>(steps) * step;
  const size_t whole = static_cast<size_t>(slot.shape[axis]) * step;
  for (size_t o = 0; o < outer; ++o) body(start + o * whole, filled);
}

void States::Reset(int64_t row) {
  if (slots_.empty()) return;
  if (row == -1) {
    // Fresh memory is zero, and pages that were touched go back. A GPU's memory stays, as graphs know its address.
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (memory_.device() == nullptr) slots_[i].memory.reset();
      if (slots_[i].memory != nullptr) memory_.Zero(slots_[i].memory->data(), Bytes(i));
    }
    changed_ = true;
    allocated_ = false;
    fresh_ = true;
    return;
  }
  RequireMemory("reset");
  CheckRow(row);
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (info(i).kind != StateInfo::Kind::kCarry) continue;
    memory_.Zero(slots_[i].memory->data() + static_cast<size_t>(row) * RowBytes(i), RowBytes(i));
    Renew(slots_[i], row, row + 1);
  }
}

void States::Truncate(int64_t row, int64_t length) {
  RequireMemory("truncate");
  CheckRow(row);
  const auto& states = artifact_.states();
  std::vector<bool> counts(states.size());
  for (const StateInfo& state : states) {
    if (state.kind == StateInfo::Kind::kCache) counts[state.length] = true;
  }
  for (size_t i = 0; i < states.size(); ++i) {
    if (states[i].kind == StateInfo::Kind::kCarry && !counts[i])
      Fail(INGOT_ERROR_INVALID_ARGUMENT, "state '", states[i].name,
           "' is a hidden state, which cannot go back; fork the session before");
  }
  const auto rows = [&](size_t index) {
    return std::pair<int64_t, int64_t>(row == -1 ? 0 : row, row == -1 ? Rows(index) : row + 1);
  };
  for (size_t i = 0; i < states.size(); ++i) {
    if (states[i].kind != StateInfo::Kind::kCache) continue;
    const auto [begin, end] = rows(i);
    const std::vector<int64_t> lengths = Lengths(i);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t steps = lengths[static_cast<size_t>(r)];
      if (length < 0 || length > steps)
        Fail(INGOT_ERROR_INVALID_ARGUMENT, "row ", r, " holds ", steps, " steps; it cannot be cut to ", length);
      if (states[i].ring && steps > slots_[i].shape[static_cast<size_t>(states[i].axis)])
        Fail(INGOT_ERROR_INVALID_ARGUMENT, "row ", r, " of '", states[i].name,
             "' holds a window, whose earlier steps are gone; "
             "fork the session before");
    }
  }
  for (size_t i = 0; i < states.size(); ++i) {
    if (states[i].kind != StateInfo::Kind::kCache) continue;
    const auto [begin, end] = rows(i);
    const std::vector<int64_t> lengths(static_cast<size_t>(end - begin), length);
    std::byte* counters = slots_[states[i].length].memory->data();
    memory_.Store(counters + static_cast<size_t>(begin) * sizeof(int64_t), lengths.data(),
                  lengths.size() * sizeof(int64_t));
    Renew(slots_[states[i].length], begin, end);
  }
}

void States::CopyRow(int64_t from, int64_t to) {
  RequireMemory("copy");
  CheckRow(from);
  CheckRow(to);
  if (from < 0 || to < 0) Fail(INGOT_ERROR_INVALID_ARGUMENT, "a row is copied to a row, not ", from, " to ", to);
  if (from == to) return;
  for (size_t i = 0; i < slots_.size(); ++i) {
    std::byte* data = slots_[i].memory->data();
    const size_t row = RowBytes(i);
    if (memory_.device() != nullptr) {  // one copy of everything is faster than many of what is filled
      memory_.Copy(data + static_cast<size_t>(to) * row, data + static_cast<size_t>(from) * row, row);
      continue;
    }
    if (HoldSame(i, from, to)) continue;
    ForFilled(i, from, Lengths(i), [&](size_t offset, size_t bytes) {
      const size_t target = offset - static_cast<size_t>(from) * row + static_cast<size_t>(to) * row;
      if (bytes > 0) std::memcpy(data + target, data + offset, bytes);
    });
  }
  for (Slot& slot : slots_) {
    if (slot.counts) slot.held[static_cast<size_t>(to)] = slot.held[static_cast<size_t>(from)];
  }
}

void States::CopyFrom(const States& other) {
  dimensions_ = other.dimensions_;
  allocated_ = other.allocated_;
  fresh_ = other.fresh_;
  if (!allocated_) return;
  if (memory_.device() != nullptr) memory_.stream()->WaitFor(other.memory_.stream()->handle());
  for (size_t i = 0; i < slots_.size(); ++i) {
    Allocate(i, other.slots_[i].shape);
    const std::byte* source = other.slots_[i].memory->data();
    std::byte* data = slots_[i].memory->data();
    if (info(i).kind == StateInfo::Kind::kCarry || memory_.device() != nullptr) {
      memory_.Copy(data, source, Bytes(i));
      continue;
    }
    const std::vector<int64_t> lengths = other.Lengths(i);
    for (int64_t row = 0; row < Rows(i); ++row) {
      other.ForFilled(i, row, lengths,
                      [&](size_t offset, size_t bytes) { std::memcpy(data + offset, source + offset, bytes); });
    }
  }
  if (memory_.device() != nullptr) other.memory_.stream()->WaitFor(memory_.stream()->handle());
}

void States::Save(const std::string& path) const {
  RequireMemory("save");
  StateWriter writer(path, artifact_.manifest());
  for (const Slot& slot : slots_) writer.Shape(slot.shape);
  for (const auto kind : {StateInfo::Kind::kCarry, StateInfo::Kind::kCache}) {  // lengths before what they measure
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (info(i).kind != kind) continue;
      std::vector<std::byte> copy;
      const std::byte* data = OnHost(i, copy);
      if (kind == StateInfo::Kind::kCarry) {
        writer.Bytes(data, Bytes(i));
        continue;
      }
      const std::vector<int64_t> lengths = Lengths(i);
      for (int64_t row = 0; row < Rows(i); ++row)
        ForFilled(i, row, lengths, [&](size_t offset, size_t bytes) { writer.Bytes(data + offset, bytes); });
    }
  }
  writer.Finish();
}

void States::Load(const std::string& path) {
  if (slots_.empty()) Fail(INGOT_ERROR_INVALID_ARGUMENT, "the model has no states to load");
  StateReader reader(path, artifact_.manifest());
  States loaded(artifact_, memory_);
  for (size_t i = 0; i < slots_.size(); ++i) {
    const std::vector<int64_t> shape = reader.Shape();
    const StateInfo& state = info(i);
    bool fits = shape.size() == state.shape.size();
    for (size_t axis = 0; fits && axis < shape.size(); ++axis)
      fits = shape[axis] >= 0 && (state.shape[axis] < 0 || state.shape[axis] == shape[axis]);
    if (!fits) reader.Fail("state '", state.name, "' cannot have shape ", ShapeText(shape));
    loaded.Allocate(i, shape);
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    const StateInfo& state = info(i);
    if (state.kind != StateInfo::Kind::kCache) continue;
    if (loaded.Rows(state.length) != loaded.Rows(i)) reader.Fail("states have different numbers of rows");
  }
  for (const auto kind : {StateInfo::Kind::kCarry, StateInfo::Kind::kCache}) {
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (info(i).kind != kind) continue;
      const bool on_host = memory_.device() == nullptr;
      std::vector<std::byte> copy(on_host ? 0 : loaded.Bytes(i));
      std::byte* data = on_host ? loaded.slots_[i].memory->data() : copy.data();
      const std::vector<int64_t> lengths = loaded.Lengths(i);
      if (kind == StateInfo::Kind::kCarry) {
        reader.Bytes(data, loaded.Bytes(i));
      } else {
        for (int64_t row = 0; row < loaded.Rows(i); ++row)
          loaded.ForFilled(i, row, lengths, [&](size_t offset, size_t bytes) { reader.Bytes(data + offset, bytes); });
      }
      if (!on_host) memory_.Store(loaded.slots_[i].memory->data(), data, copy.size());
    }
  }
  reader.Finish();
  slots_ = std::move(loaded.slots_);
  changed_ = true;
  first_row_ = row_count_ = 0;
  allocated_ = true;
  fresh_ = false;
}

const DLTensor& States::Tensor(size_t index) {
  if (index >= slots_.size())
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "there is no state ", index, "; the model has ", slots_.size());
  RequireMemory("see");
  RenewAll();  // whoever sees it may change it
  Slot& slot = slots_[index];
  slot.tensor = {slot.memory->data(),
                 memory_.dlpack(),
                 static_cast<int32_t>(slot.shape.size()),
                 info(index).dtype->type,
                 slot.shape.data(),
                 nullptr,
                 0};
  return slot.tensor;
}

void States::Read(size_t index, void* data, size_t bytes) {
  Tensor(index);
  CheckSize(index, bytes);
  memory_.Load(data, slots_[index].memory->data(), bytes);
}

void States::Write(size_t index, const void* data, size_t bytes) {
  Tensor(index);
  CheckSize(index, bytes);
  memory_.Store(slots_[index].memory->data(), data, bytes);
}

void States::CheckSize(size_t index, size_t bytes) const {
  if (bytes != Bytes(index))
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "state '", info(index).name, "' has ", Bytes(index), " bytes, not ", bytes);
}

}  // namespace ingot
