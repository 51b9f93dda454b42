// The kernels that others call, too; each is told of where it is defined.
#pragma once
#include <cstdint>

#include "adapters.h"
#include "paged.h"

extern "C" {
void trellis_adapted(const trellis::Group *group, const trellis::Segment *segments, int64_t count, const void *x, int64_t x_stride, const void *weight, const float *bias, void *y, int64_t rows, int is_bf16, int threads);
void trellis_add_lora(const trellis::Group *group, const trellis::Segment *segments, int64_t count, const void *x, int64_t x_stride, void *y, int64_t y_stride, int is_bf16, int threads);
void trellis_attend(const trellis::Cache *cache, const trellis::Step *step, const void *q, int64_t q_token_stride, int64_t q_head_stride, void *out, int64_t heads, float scale, float softcap, int window, int is_bf16, int threads);
void trellis_linear(const void *x, int64_t x_stride, const void *weight, const float *bias, void *y, int64_t rows, int64_t in_features, int64_t out_features, int is_bf16, int threads);
void trellis_rms_norm(const void *x, int64_t stride, const void *weight, void *out, int64_t out_stride, int64_t rows, int64_t size, float eps, float offset, int is_bf16, int threads);
void trellis_rotary(void *q, int64_t q_heads, int64_t q_token, int64_t q_head, void *k, int64_t k_heads, int64_t k_token, int64_t k_head, const void *cos, const void *sin, int64_t tokens, int64_t size, int is_bf16, int threads);
void trellis_silu_mul(const void *gate, int64_t gate_stride, const void *up, int64_t up_stride, void *out, int64_t rows, int64_t size, int is_bf16, int threads);
void trellis_write_cache(const trellis::Cache *cache, const trellis::Step *step, const void *keys, int64_t k_token, int64_t k_head, const void *values, int64_t v_token, int64_t v_head, int64_t tokens, int is_bf16, int threads);
}
