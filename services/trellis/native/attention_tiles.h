// Attention of a chunk of a prompt in bf16 by AMX tiles: 32 query rows pass over the keys together, against 8 without
// tiles. Included by attention.cpp, into its own names.
#include "tiles.h"

#if TRELLIS_TILES

constexpr int TILED_ROWS = 32;
constexpr int TILED_TOKENS = 16;  // new tokens of a sequence from which tiles pay

// Tiles 0 to 3 are sums; 4 and 5 are queries and keys, 16 x 32 and its transposed; 6 and 7 weights and values of 16
// tokens, 16 x 16 and 8 pairs of 16.
struct ChunkTiling {
  struct alignas(64) Palette {
    uint8_t id = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 32, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 8};
  };
  ChunkTiling() {
    static const Palette palette;
    _tile_loadconfig(&palette);
  }
  ~ChunkTiling() { _tile_release(); }
};

struct ChunkScratch {
  std::vector<bf16> q, weights, tail;
  std::vector<float> scores, sums;
};

inline bool tiles_serve(const Attention<float> &, int) { return false; }

inline bool tiles_serve(const Attention<bf16> &call, int new_tokens) {
  return new_tokens >= TILED_TOKENS && call.cache.key_size % 32 == 0 && call.cache.value_size % 32 == 0 &&
         call.shared() <= TILED_ROWS && have_tiles();
}

inline void tile_scores(const bf16 *q, const Places<bf16> &keys, int groups, const Cache &cache, float *scores) {
  int size = (int)cache.key_size;
  for (int g = 0; g < groups; g++) {
    _tile_zero(0);
    _tile_zero(1);
    for (int d = 0; d < size; d += 32) {
      _tile_loadd(5, keys.at[g] + d * cache.block_tokens, cache.block_tokens * 4);
      _tile_loadd(4, q + d, size * 2);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(4, q + 16 * size + d, size * 2);
      _tile_dpbf16ps(1, 4, 5);
    }
    _tile_stored(0, scores + g * LANES, TILE_TOKENS * 4);
    _tile_stored(1, scores + 16 * TILE_TOKENS + g * LANES, TILE_TOKENS * 4);
  }
}

inline void tile_gather(const bf16 *weights, const Places<bf16> &values, int groups, int size, float *sums) {
  for (int d = 0; d < size; d += 32) {
    float *at = sums + d, *below = sums + 16 * size + d;
    _tile_loadd(0, at, size * 4);
    _tile_loadd(1, at + 16, size * 4);
    _tile_loadd(2, below, size * 4);
    _tile_loadd(3, below + 16, size * 4);
    for (int g = 0; g < groups; g++) {
      _tile_loadd(6, weights + g * LANES, TILE_TOKENS * 2);
      _tile_loadd(7, values.at[g] + d * 2, size * 4);
      _tile_dpbf16ps(0, 6, 7);
      _tile_loadd(7, values.at[g] + d * 2 + 32, size * 4);
      _tile_dpbf16ps(1, 6, 7);
      _tile_loadd(6, weights + 16 * TILE_TOKENS + g * LANES, TILE_TOKENS * 2);
      _tile_dpbf16ps(3, 6, 7);
      _tile_loadd(7, values.at[g] + d * 2, size * 4);
      _tile_dpbf16ps(2, 6, 7);
    }
    _tile_stored(0, at, size * 4);
    _tile_stored(1, at + 16, size * 4);
    _tile_stored(2, below, size * 4);
    _tile_stored(3, below + 16, size * 4);
  }
}

// What lies behind the sequence's last token may be anything, and 0 * NaN is NaN: such a group is read from a copy.
inline void cover_tail(Places<bf16> &values, int tokens, int size, std::vector<bf16> &tail) {
  int rest = tokens % LANES;
  if (!rest) return;
  tail.assign((size_t)LANES * size, bf16{});
  std::memcpy(tail.data(), values.at[tokens / LANES], (size_t)(rest + 1) / 2 * size * 4);
  if (rest % 2)
    for (int d = 0; d < size; d++) tail[(size_t)(rest - 1) * size + d * 2 + 1] = bf16{};
  values.at[tokens / LANES] = tail.data();
}

inline void attend_chunk(const Attention<float> &, const Item &) {}

inline void attend_chunk(const Attention<bf16> &call, const Item &item) {
  thread_local ChunkScratch scratch;
  ChunkTiling tiling;
  const Cache &cache = call.cache;
  int key_size = (int)cache.key_size, size = (int)cache.value_size, rows = item.tokens * item.queries;
  float top[TILED_ROWS], total[TILED_ROWS] = {};
  scratch.q.resize((size_t)TILED_ROWS * key_size);
  scratch.weights.resize(TILED_ROWS * TILE_TOKENS);
  std::fill(scratch.q.begin() + rows * key_size, scratch.q.end(), bf16{});
  std::fill(scratch.weights.begin() + rows * TILE_TOKENS, scratch.weights.end(), bf16{});
  scratch.scores.resize(TILED_ROWS * TILE_TOKENS);
  scratch.sums.assign((size_t)TILED_ROWS * size, 0);
  int64_t first_row = call.step.starts[item.sequence] + item.token, first_head = item.head * call.shared();
  for (int r = 0; r < rows; r++) {
    const bf16 *q = call.q + (first_row + r / item.queries) * call.q_token_stride + (first_head + r % item.queries) * call.q_head_stride;
    std::memcpy(scratch.q.data() + r * key_size, q, key_size * sizeof(bf16));
    top[r] = -std::numeric_limits<float>::infinity();
  }
  int position = call.step.positions[item.sequence] + item.token, window = call.formula.window;
  int begin = window ? std::max(0, position - window + 1) : 0, end = position + item.tokens;
  Places<bf16> keys, values;
  for (int tile = begin / TILE_TOKENS * TILE_TOKENS; tile < end; tile += TILE_TOKENS) {
    int first = std::max(tile, begin / LANES * LANES), tokens = std::min(tile + TILE_TOKENS, end) - first;
    int groups = (tokens + LANES - 1) / LANES;
    find(call, item, first, groups, keys, values);
    cover_tail(values, tokens, size, scratch.tail);
    tile_scores(scratch.q.data(), keys, groups, cache, scratch.scores.data());
    for (int r = 0; r < rows; r++) {
      float *scores = scratch.scores.data() + r * TILE_TOKENS, *sums = scratch.sums.data() + r * size;
      bf16 *weights = scratch.weights.data() + r * TILE_TOKENS;
      float shrink = soften(scores, weights, first, groups, position + r / item.queries, call.formula, top[r], total[r]);
      for (int d = 0; d < size; d += LANES) store(sums + d, load(sums + d) * shrink);
    }
    tile_gather(scratch.weights.data(), values, groups, size, scratch.sums.data());
  }
  for (int r = 0; r < rows; r++) {
    bf16 *out = call.out + ((first_row + r / item.queries) * call.heads + first_head + r % item.queries) * size;
    for (int d = 0; d < size; d += LANES) store(out + d, load(scratch.sums.data() + r * size + d) / total[r]);
  }
}

#endif
