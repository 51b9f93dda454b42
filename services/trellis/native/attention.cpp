// Attention of each sequence's new tokens over its own blocks: scores in fp32, softmax tile by tile, one pass over a
// key-value head's keys for all the query heads that share it.
//
// Tiles of keys begin at fixed tokens of the sequence, so that a row's bits do not depend on what else is in the batch, nor
// on how the prompt was cut into chunks (but in bf16 on CPUs with AMX, where chunks of 16 tokens or more add in another
// order than shorter ones). What lies in a block behind the sequence's last token is never used.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels.h"
#include "paged.h"
#include "tiles.h"
#include "vectors.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int TILE_TOKENS = 256;
constexpr int GROUPS = TILE_TOKENS / LANES;
constexpr int MOST_ROWS = 8;  // query rows that pass over the keys together

struct Formula {
  float scale, softcap;  // softcap 0: none
  int32_t window;        // 0: all
};

template <class T>
struct Attention {
  const Cache &cache;
  const Step &step;
  const T *q;
  int64_t q_token_stride, q_head_stride;
  T *out;
  int64_t heads;
  Formula formula;

  int64_t shared() const { return heads / cache.heads; }
};

// Query rows of one sequence that share a key-value head: some of its new tokens, times some of the head's queries.
struct Item {
  int32_t sequence, head, token, tokens, query, queries;
};

template <class T, int ROWS>
struct Rows {
  const T *q[ROWS];
  T *out[ROWS];
  int position[ROWS];  // of its token: it reads up to this one
  float top[ROWS], total[ROWS];
};

// Where 16 tokens each lie; one more than a tile, for what is read ahead.
template <class T>
struct Places {
  const T *at[GROUPS + 4];
};

template <class T, int ROWS, int WIDE_GROUPS>
TRELLIS_INLINE void score_groups(const Rows<T, ROWS> &rows, const T *const *keys, int64_t stride, int size, float *scores) {
  constexpr int PAIR = Dots<T>::PAIR;
  f32x16 sums[ROWS][WIDE_GROUPS] = {};
  for (int d = 0; d < size; d += PAIR) {
    typename Dots<T>::Pack k[WIDE_GROUPS];
    for (int g = 0; g < WIDE_GROUPS; g++) {
      const T *at = keys[g] + d / PAIR * stride;
      __builtin_prefetch(keys[g + WIDE_GROUPS] + d / PAIR * stride, 0, 2);
      k[g] = load_pack(at);
    }
    for (int r = 0; r < ROWS; r++) {
      auto q = Dots<T>::splat_at(rows.q[r] + d);
      for (int g = 0; g < WIDE_GROUPS; g++) sums[r][g] = Dots<T>::add(sums[r][g], k[g], q);
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int g = 0; g < WIDE_GROUPS; g++) store(scores + r * TILE_TOKENS + g * LANES, sums[r][g]);
}

template <class T, int ROWS>
static void score(const Rows<T, ROWS> &rows, const Places<T> &keys, int groups, int64_t stride, int size, float *scores) {
  constexpr int WIDE_GROUPS = WIDE ? (ROWS <= 4 ? 4 : 2) : 1;
  int g = 0;
  for (; g + WIDE_GROUPS <= groups; g += WIDE_GROUPS)
    score_groups<T, ROWS, WIDE_GROUPS>(rows, keys.at + g, stride, size, scores + g * LANES);
  for (; g < groups; g++) score_groups<T, ROWS, 1>(rows, keys.at + g, stride, size, scores + g * LANES);
}

TRELLIS_INLINE f32x16 shaped(f32x16 score, const Formula &formula) {
  score *= formula.scale;
  if (formula.softcap == 0) return score;
  f32x16 power = exponential(score * (2 / formula.softcap));
  return formula.softcap * (1 - 2 / (power + 1));
}

// Scores of the tokens from `first` on -> weights relative to the largest so far; returns what older sums are to be
// multiplied with.
template <class T>
static float soften(float *scores, T *weights, int first, int groups, int position, const Formula &formula, float &top, float &total) {
  const float none = -std::numeric_limits<float>::infinity();
  const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  int oldest = formula.window ? position - formula.window + 1 : 0;
  f32x16 most = splat(none);
  for (int g = 0; g < groups; g++) {
    f32x16 score = shaped(load(scores + g * LANES), formula);
    int token = first + g * LANES;
    if (token < oldest || token + LANES - 1 > position)
      score = select((lanes + token >= oldest) & (lanes + token <= position), score, splat(none));
    store(scores + g * LANES, score);
    most = select(score > most, score, most);
  }
  float before = top;
  top = std::max(before, largest(most));
  float base = top == none ? 0 : top;  // nothing to be read yet: all weights are 0
  f32x16 sums = {};
  for (int g = 0; g < groups; g++) {
    f32x16 weight = exponential(load(scores + g * LANES) - base);
    sums += weight;
    store(weights + g * LANES, weight);
  }
  float shrink = before == none ? 0 : exponential(splat(before - base))[0];
  total = total * shrink + sum(sums);
  return shrink;
}

// The sums of VECTORS x 16 of the head's numbers, over all tokens of a tile.
template <class T, int ROWS, int VECTORS>
TRELLIS_INLINE void gather(const T *weights, const Places<T> &values, int64_t stride, int tokens, int d, int n, float *sums, int size, const float *shrink) {
  constexpr int PAIR = Dots<T>::PAIR;
  f32x16 acc[ROWS][VECTORS];
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) acc[r][v] = load(sums + r * size + d + v * LANES) * shrink[r];
  auto add = [&](const T *at, int token, bool half) __attribute__((always_inline)) {
    typename Dots<T>::Pack each[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
      each[v] = n == LANES ? load_pack(at + v * LANES * PAIR) : load_pack(at, n * PAIR);
      if constexpr (PAIR == 2)
        if (half) each[v] &= 0xffffu;  // the second of the pair is not the sequence's: it may be anything
    }
    for (int r = 0; r < ROWS; r++) {
      auto weight = Dots<T>::splat_at(weights + r * TILE_TOKENS + token);
      for (int v = 0; v < VECTORS; v++) acc[r][v] = Dots<T>::add(acc[r][v], each[v], weight);
    }
  };
  for (int token = 0; token < tokens; token += LANES) {
    const T *at = values.at[token / LANES] + d * PAIR, *next = values.at[token / LANES + 1] + d * PAIR;
    int here = std::min(LANES, tokens - token), t = 0;
    for (; t + PAIR <= here; t += PAIR) {
      for (int v = 0; v < VECTORS; v++) __builtin_prefetch(next + t / PAIR * stride + v * LANES * PAIR, 0, 2);
      add(at + t / PAIR * stride, token + t, false);
    }
    if (t < here) add(at + t / PAIR * stride, token + t, true);
  }
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) store(sums + r * size + d + v * LANES, acc[r][v]);
}

template <class T, int ROWS>
static void gather_all(const T *weights, const Places<T> &values, int tokens, int value_size, float *sums, int size, const float *shrink) {
  constexpr int VECTORS = WIDE ? (ROWS <= 4 ? 4 : 2) : 1;
  int64_t stride = value_size * Dots<T>::PAIR;
  int d = 0;
  for (; d + VECTORS * LANES <= value_size; d += VECTORS * LANES)
    gather<T, ROWS, VECTORS>(weights, values, stride, tokens, d, LANES, sums, size, shrink);
  for (; d < value_size; d += LANES)
    gather<T, ROWS, 1>(weights, values, stride, tokens, d, std::min(LANES, value_size - d), sums, size, shrink);
}

struct Scratch {
  std::vector<float> scores, sums;
  std::vector<float> weights;  // or bf16, in the first half
};

template <class T>
static void find(const Attention<T> &call, const Item &item, int first, int groups, Places<T> &keys, Places<T> &values) {
  const Cache &cache = call.cache;
  Pages<T> pages{cache};
  constexpr int PAIR = Dots<T>::PAIR;
  const int32_t *blocks = call.step.blocks + item.sequence * call.step.most_blocks;
  for (int g = 0; g < groups; g++) {
    int token = first + g * LANES, offset = token % (int)cache.block_tokens;
    int64_t block = blocks[token / cache.block_tokens];
    keys.at[g] = pages.keys(block, item.head) + offset * PAIR;
    values.at[g] = pages.values(block, item.head) + offset / PAIR * cache.value_size * PAIR;
  }
  for (int g = groups; g < groups + 4; g++) {
    keys.at[g] = keys.at[groups - 1];
    values.at[g] = values.at[groups - 1];
  }
}

template <class T, int ROWS>
static void attend_rows(const Attention<T> &call, const Item &item, Rows<T, ROWS> &rows) {
  thread_local Scratch scratch;
  const Cache &cache = call.cache;
  int size = ((int)cache.value_size + LANES - 1) / LANES * LANES;
  scratch.scores.resize(MOST_ROWS * TILE_TOKENS);
  scratch.weights.resize(MOST_ROWS * TILE_TOKENS);
  scratch.sums.assign((size_t)MOST_ROWS * size, 0);
  float *scores = scratch.scores.data();
  T *weights = (T *)scratch.weights.data();
  int window = call.formula.window, end = rows.position[ROWS - 1] + 1;
  int begin = window ? std::max(0, rows.position[0] - window + 1) : 0;
  Places<T> keys, values;
  for (int tile = begin / TILE_TOKENS * TILE_TOKENS; tile < end; tile += TILE_TOKENS) {
    int first = std::max(tile, begin / LANES * LANES), tokens = std::min(tile + TILE_TOKENS, end) - first;
    int groups = (tokens + LANES - 1) / LANES;
    find(call, item, first, groups, keys, values);
    score<T, ROWS>(rows, keys, groups, cache.block_tokens * Dots<T>::PAIR, (int)cache.key_size, scores);
    float shrink[ROWS];
    for (int r = 0; r < ROWS; r++)
      shrink[r] = soften(scores + r * TILE_TOKENS, weights + r * TILE_TOKENS, first, groups, rows.position[r], call.formula, rows.top[r], rows.total[r]);
    gather_all<T, ROWS>(weights, values, tokens, (int)cache.value_size, scratch.sums.data(), size, shrink);
  }
  for (int r = 0; r < ROWS; r++)
    for (int d = 0; d < cache.value_size; d += LANES)
      store(rows.out[r] + d, load(scratch.sums.data() + r * size + d) / rows.total[r], std::min(LANES, (int)cache.value_size - d));
}

template <class T, int ROWS>
static void attend_item(const Attention<T> &call, const Item &item) {
  Rows<T, ROWS> rows;
  for (int r = 0; r < ROWS; r++) {
    int64_t token = call.step.starts[item.sequence] + item.token + r / item.queries;
    int64_t head = item.head * call.shared() + item.query + r % item.queries;
    rows.q[r] = call.q + token * call.q_token_stride + head * call.q_head_stride;
    rows.out[r] = call.out + (token * call.heads + head) * call.cache.value_size;
    rows.position[r] = call.step.positions[item.sequence] + item.token + r / item.queries;
    rows.top[r] = -std::numeric_limits<float>::infinity();
    rows.total[r] = 0;
  }
  attend_rows<T, ROWS>(call, item, rows);
}

#include "attention_tiles.h"

template <class T>
static void plan(const Attention<T> &call, std::vector<Item> &items) {
  int shared = (int)call.shared();
  for (int s = 0; s < call.step.sequences; s++) {
    int count = call.step.starts[s + 1] - call.step.starts[s], most = MOST_ROWS;
#if TRELLIS_TILES
    if (tiles_serve(call, count)) most = TILED_ROWS;
#endif
    int queries = std::min(shared, most), tokens = std::max(1, most / shared);
    for (int token = 0; token < count; token += tokens)
      for (int head = 0; head < call.cache.heads; head++)
        for (int query = 0; query < shared; query += queries)
          items.push_back({s, head, token, std::min(tokens, count - token), query, std::min(queries, shared - query)});
  }
}

template <class T>
static void attend_any(const Attention<T> &call, const Item &item) {
#if TRELLIS_TILES
  if (tiles_serve(call, call.step.starts[item.sequence + 1] - call.step.starts[item.sequence])) return attend_chunk(call, item);
#endif
  switch (item.tokens * item.queries) {
    case 1: return attend_item<T, 1>(call, item);
    case 2: return attend_item<T, 2>(call, item);
    case 3: return attend_item<T, 3>(call, item);
    case 4: return attend_item<T, 4>(call, item);
    case 5: return attend_item<T, 5>(call, item);
    case 6: return attend_item<T, 6>(call, item);
    case 7: return attend_item<T, 7>(call, item);
    case 8: return attend_item<T, 8>(call, item);
  }
}

template <class T>
static void attend(const Attention<T> &call, int threads) {
  thread_local std::vector<Item> items;
  items.clear();
  plan(call, items);
  int n = (int)items.size();
  const Item *each = items.data();
  if (threads == 1 || n <= 1) {
    for (int i = 0; i < n; i++) attend_any(call, each[i]);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int i = 0; i < n; i++) attend_any(call, each[i]);
}

}  // namespace
}  // namespace
}  // namespace trellis

extern "C" void trellis_attend(const trellis::Cache *cache, const trellis::Step *step, const void *q, int64_t q_token_stride, int64_t q_head_stride, void *out, int64_t heads, float scale, float softcap, int window, int is_bf16, int threads) {
  using namespace trellis;
  Formula formula{scale, softcap, window};
  if (is_bf16)
    attend(Attention<bf16>{*cache, *step, (const bf16 *)q, q_token_stride, q_head_stride, (bf16 *)out, heads, formula}, threads);
  else
    attend(Attention<float>{*cache, *step, (const float *)q, q_token_stride, q_head_stride, (float *)out, heads, formula}, threads);
}
