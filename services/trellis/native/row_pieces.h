// The rows of a mixed batch in pieces that stay in a core's cache from the base's product to what its adapters add.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "adapters.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int BLOCK_ROWS = 32;                 // of one segment: a multiple of 4, so that they are computed as in the whole
constexpr int64_t PIECE_BYTES = 384 << 10;     // of the widest rows of a piece, a part of a core's second cache
constexpr int64_t PIECES_A_THREAD = 4;         // at least, so that a thread that is held up takes fewer

struct RowBlock {
  int32_t segment, from, rows;  // from: within the segment
};

struct RowPiece {
  int64_t from, to;  // rows of the batch
  int first, last;   // blocks
};

struct RowPlan {
  std::vector<RowBlock> blocks;
  std::vector<RowPiece> pieces;

  void cut(const Segment *segments, int64_t count, const Group &group, int64_t rows, int threads) {
    blocks.clear();
    pieces.clear();
    for (int64_t i = 0; i < count; i++) {
      const Segment &segment = segments[i];
      if (!counts(segment, group)) continue;
      for (int from = 0; from < segment.tokens; from += BLOCK_ROWS)
        blocks.push_back({(int32_t)i, from, std::min(BLOCK_ROWS, segment.tokens - from)});
    }
    int64_t widest = std::max(group.in, group.out);
    int64_t most = std::min(PIECE_BYTES / (widest * (int64_t)sizeof(float)), rows / (PIECES_A_THREAD * threads));
    most = std::max<int64_t>(most / BLOCK_ROWS * BLOCK_ROWS, BLOCK_ROWS);
    int block = 0, all = (int)blocks.size();
    for (int64_t from = 0; from < rows;) {
      int64_t to = std::min(from + most, rows);
      int first = block;
      for (; block < all; block++) {
        int64_t begins = segments[blocks[block].segment].token + blocks[block].from;
        if (begins >= to) break;
        to = std::max(to, begins + blocks[block].rows);
      }
      pieces.push_back({from, to, first, block});
      from = to;
    }
  }
};

}  // namespace
}  // namespace trellis
