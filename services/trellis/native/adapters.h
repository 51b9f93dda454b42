// A bank's tensors of one group of linears, and which rows of a batch have which adapter, as trellis.native.lora has them.
#pragma once
#include <cstdint>

namespace trellis {

struct Group {
  const void *values;      // of all adapters; where a part begins A (rank, in), then B transposed (rank, out of the part)
  const int64_t *places;   // (slots, parts): where that is
  const int32_t *ranks;    // (slots, parts)
  const float *scale;      // (slots, parts)
  const int32_t *offsets;  // (parts + 1): the columns of each part
  int64_t stride;          // from one slot's places, ranks and scales to the next one's
  int64_t parts, in, out;

  int width(int part) const { return offsets[part + 1] - offsets[part]; }
};

struct Segment {
  int32_t token, tokens;  // rows of x and y
  int32_t slot;           // below 0: the base alone
};

// One part of one adapter; of rank 0 where there is nothing to add.
template <class T>
struct Pair {
  const T *a, *b;  // (rank, in), (rank, width)
  int rank, in, width;
  float scale;

  static Pair of(const Group &group, int slot, int part) {
    int64_t at = slot * group.stride + part;
    int rank = group.scale[at] == 0.0f ? 0 : group.ranks[at], in = (int)group.in;
    const T *a = (const T *)group.values + (rank ? group.places[at] : 0);
    return {a, a + (int64_t)rank * in, rank, in, group.width(part), group.scale[at]};
  }
};

// Whether a segment has anything to add at a group.
inline bool counts(const Segment &segment, const Group &group) {
  if (segment.slot < 0 || segment.tokens <= 0) return false;
  for (int part = 0; part < group.parts; part++)
    if (group.ranks[segment.slot * group.stride + part] && group.scale[segment.slot * group.stride + part] != 0.0f) return true;
  return false;
}

}  // namespace trellis
