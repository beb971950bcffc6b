#include "text/cut_text.h"

namespace pith {

CutText CutAt(const std::string& mark, const std::vector<TextSegment>& segments) {
  CutText cut;
  bool found = false;
  for (const TextSegment& segment : segments) {
    const size_t at = found ? std::string::npos : segment.text.find(mark);
    if (at == std::string::npos) {
      (found ? cut.after : cut.before).push_back(segment);
      continue;
    }
    found = true;
    if (at > 0) cut.before.push_back({segment.text.substr(0, at), segment.markup});
    const size_t end = at + mark.size();
    if (end < segment.text.size()) cut.after.push_back({segment.text.substr(end), segment.markup});
  }
  return cut;
}

}  // namespace pith
