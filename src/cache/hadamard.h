// The rotation that spreads what is large in a row over all of it, so that few bits hold it well
// (QuaRot, arXiv 2404.00456, section 3; the keys and values of the cache are its "online" case).
#pragma once

namespace pith {

// Multiplies each run of HadamardDims(n) elements of row [n] with the orthonormal Walsh-Hadamard
// matrix, which is symmetric: twice gives the row again, within rounding. Dot products of rows stay
// what they are.
void Hadamard(float* row, int n);

// The largest power of two that divides n.
constexpr int HadamardDims(int n) { return n & -n; }

}  // namespace pith
