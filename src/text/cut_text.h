// A rendered conversation in two parts.
#pragma once

#include <string>
#include <vector>

#include "pith/text.h"

namespace pith {

struct CutText {
  std::vector<TextSegment> before;
  std::vector<TextSegment> after;
};

// What stands before and after the first `mark`, which is in neither; no segment is empty. Without
// a mark everything is before it.
CutText CutAt(const std::string& mark, const std::vector<TextSegment>& segments);

}  // namespace pith
