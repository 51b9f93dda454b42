// Puts the step's keys and values where the attention kernel reads them.
#include "kernels.h"
#include "paged.h"
#include "vectors.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one
namespace {  // each file has its own names: two of one name in a library would be one

// The numbers of one head of one token, and how far apart tokens and heads are.
template <class T>
struct Source {
  const T *at;
  int64_t token_stride, head_stride;
};

template <class T>
static void write_token(const Cache &cache, int64_t row, const Source<T> &keys, const Source<T> &values) {
  constexpr int PAIR = Dots<T>::PAIR;
  Pages<T> pages{cache};
  int64_t block = row / cache.block_tokens, offset = row % cache.block_tokens;
  for (int64_t head = 0; head < cache.heads; head++) {
    const T *key = keys.at + head * keys.head_stride, *value = values.at + head * values.head_stride;
    T *to = pages.keys(block, head) + offset * PAIR;
    for (int64_t d = 0; d < cache.key_size; d += PAIR, to += cache.block_tokens * PAIR) std::memcpy(to, key + d, PAIR * sizeof(T));
    to = pages.values(block, head) + offset / PAIR * cache.value_size * PAIR + offset % PAIR;
    for (int64_t d = 0; d < cache.value_size; d++) to[d * PAIR] = value[d];
  }
}

template <class T>
static void write_cache(const Cache &cache, const Step &step, Source<T> keys, Source<T> values, int64_t tokens, int threads) {
  auto write = [&](int64_t t) {
    write_token<T>(cache, step.rows[t], {keys.at + t * keys.token_stride, 0, keys.head_stride}, {values.at + t * values.token_stride, 0, values.head_stride});
  };
  if (threads == 1 || tokens < 128) {
    for (int64_t t = 0; t < tokens; t++) write(t);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < tokens; t++) write(t);
}

}  // namespace
}  // namespace
}  // namespace trellis

extern "C" void trellis_write_cache(const trellis::Cache *cache, const trellis::Step *step, const void *keys, int64_t k_token, int64_t k_head, const void *values, int64_t v_token, int64_t v_head, int64_t tokens, int is_bf16, int threads) {
  using namespace trellis;
  if (is_bf16)
    write_cache<bf16>(*cache, *step, {(const bf16 *)keys, k_token, k_head}, {(const bf16 *)values, v_token, v_head}, tokens, threads);
  else
    write_cache<float>(*cache, *step, {(const float *)keys, k_token, k_head}, {(const float *)values, v_token, v_head}, tokens, threads);
}
