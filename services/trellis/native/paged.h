// The paged cache of one attention layer, as the kernels lay it out.
//
// A block of one head is one stretch of memory, in the order in which products read it. WIDTH is 2 numbers in bf16, whose
// products take pairs, and 1 in fp32:
//   keys    [size / WIDTH][block_tokens][WIDTH]   a vector is 16 tokens
//   values  [block_tokens / WIDTH][size][WIDTH]   a vector is 16 of the head's numbers
#pragma once
#include <cstdint>

namespace trellis {

struct Cache {
  void *keys, *values;
  int64_t heads, block_tokens, key_size, value_size;
};

// One step's sequences: which rows of the batch are theirs, and which blocks.
struct Step {
  const int32_t *starts;     // (sequences + 1)
  const int32_t *positions;  // (sequences): tokens in the cache before the step
  const int32_t *blocks;     // (sequences, most_blocks)
  const int64_t *rows;       // (tokens): block * block_tokens + offset
  int64_t sequences, most_blocks;
};

template <class T>
struct Pages {
  const Cache &cache;

  T *keys(int64_t block, int64_t head) const {
    return (T *)cache.keys + (block * cache.heads + head) * cache.block_tokens * cache.key_size;
  }
  T *values(int64_t block, int64_t head) const {
    return (T *)cache.values + (block * cache.heads + head) * cache.block_tokens * cache.value_size;
  }
};

}  // namespace trellis
