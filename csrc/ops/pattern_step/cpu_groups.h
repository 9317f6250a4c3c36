// SPDX-License-Identifier: BSD-3-Clause
// Neighbouring patterns that one thread takes through a step one after the other: their patches share most pixels of a
// small box of the canvas, which is summed in the thread's cache and added to the canvas once. Groups depend on the
// positions and sizes only, and so do the results.
#pragma once

#include "runtime/cpu/tile_sums.h"

namespace ptycho::cpu {

// Patterns order[members] of one canvas, and the box that their patches touch; empty if all of them lie outside.
struct PatternGroup {
  Span members;
  Tile box;

  template <typename T>
  int64_t scalars() const {  // of the box's sums
    return box.height() * box.stride<T>() * 2;
  }
};

// Patterns of a group, at most, and the groups of a scan that has so many; a box is at most so many patches large.
inline constexpr int64_t kPatternsOfGroup = 16;
inline constexpr int64_t kGroupsOfScan = 16;
inline constexpr int64_t kPatchesOfBox = 4;

inline std::vector<PatternGroup> pattern_groups(const Scan& scan, const std::vector<int64_t>& order, int64_t rows,
                                                int64_t cols) {
  const int64_t most = clamp(scan.count() / kGroupsOfScan, 1, kPatternsOfGroup);
  const int64_t largest = kPatchesOfBox * (scan.h + 1) * (scan.w + 1);
  const auto joined = [](Span a, Span b) { return Span{std::min(a.begin, b.begin), std::max(a.end, b.end)}; };
  std::vector<PatternGroup> groups;
  for (int64_t i = 0; i < scan.count(); ++i) {
    const int64_t k = order[i], y = to_index(std::floor(scan.positions[2 * k])),
                  x = to_index(std::floor(scan.positions[2 * k + 1]));
    Tile box{scan.group_of(k), clip({y, y + scan.h + 1}, 0, rows), clip({x, x + scan.w + 1}, 0, cols)};
    const bool empty = box.height() == 0 || box.width() == 0;
    if (empty) box.rows = box.cols = {0, 0};
    if (!groups.empty() && groups.back().box.group == box.group &&
        groups.back().members.end - groups.back().members.begin < most) {
      Tile& last = groups.back().box;
      const bool was_empty = last.height() == 0;
      const Tile both = empty       ? last
                        : was_empty ? box
                                    : Tile{box.group, joined(last.rows, box.rows), joined(last.cols, box.cols)};
      if (both.height() * both.width() <= largest) {
        last = both;
        groups.back().members.end = i + 1;
        continue;
      }
    }
    groups.push_back({{i, i + 1}, box});
  }
  return groups;
}

// canvas += the sums of boxes, in the order of the groups; sums: those of groups[j] begin at starts[j].
template <typename T>
void add_boxes(const PatternGroup* groups, int64_t count, const T* sums, const int64_t* starts,
               const ImageStack<T>& canvases) {
  constexpr int64_t band = 16;  // rows of all canvases, one below the other, that a thread owns
  const auto rows_of = [&](const PatternGroup& group) {
    const int64_t first = group.box.group * canvases.rows;
    return Span{first + group.box.rows.begin, first + group.box.rows.end};
  };
  Span touched = rows_of(groups[0]);
  for (int64_t j = 1; j < count; ++j) {
    const Span rows = rows_of(groups[j]);
    touched = {std::min(touched.begin, rows.begin), std::max(touched.end, rows.end)};
  }
  const int64_t bands = (touched.end - touched.begin + band - 1) / band;
  for_each_chunk(bands, 1, [&] {
    return [&](int64_t b, int64_t) {
      const Span own{touched.begin + b * band, std::min(touched.begin + (b + 1) * band, touched.end)};
      for (int64_t j = 0; j < count; ++j) {
        const Tile& box = groups[j].box;
        const Span all = rows_of(groups[j]), rows = clip(all, own.begin, own.end);
        const int64_t length = box.width() * canvases.lanes, stride = box.stride<T>() * canvases.lanes;
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          const T* const from = sums + starts[j] + (r - all.begin) * stride;
          T* const to = canvases.data + (r * canvases.cols + box.cols.begin) * canvases.lanes;
          for (int64_t i = 0; i < length; ++i) to[i] += from[i];
        }
      }
    };
  });
}

}  // namespace ptycho::cpu
