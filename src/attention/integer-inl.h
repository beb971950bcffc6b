// Integer products that Highway 1.0.3 has no portable name for. Included once per SIMD level.
#if defined(PITH_ATTENTION_INTEGER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PITH_ATTENTION_INTEGER_INL_H_
#undef PITH_ATTENTION_INTEGER_INL_H_
#else
#define PITH_ATTENTION_INTEGER_INL_H_
#endif

#include "attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace pith {
namespace HWY_NAMESPACE {

inline constexpr bool kHasPairProducts =
    kHasAvx512 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3;

// Vectors of sums for each of R rows. A product is not added as it is made, as f32's is, and needs
// a register of its own.
template <int R>
inline constexpr int kIntegerVectors = R <= 2 || kManyRegisters ? 4 : 2;

// Scales, NaN where they are: one NaN stands for a block of a row that is no numbers.
template <class D>
HWY_INLINE hn::Vec<D> LoadScales(D d, const F16* HWY_RESTRICT from) {
  const auto scale = LoadF16(d, from);
  if constexpr (kHasF16) return scale;
  const auto finite = hn::Lt(hn::Abs(scale), hn::Set(d, 65536.0f));
  return hn::IfThenElse(finite, scale, hn::Set(d, std::numeric_limits<float>::quiet_NaN()));
}

// The nearest integer, ties to even, of |x| < 2^22; Highway's own guards against overflow.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> RoundToInt(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> d32;
  const auto magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23
  return hn::Sub(hn::BitCast(d32, hn::Add(x, magic)), hn::BitCast(d32, magic));
}

// sum += product, here and now: GCC otherwise reorders sums of integers across unrolled steps, and
// keeps more of them than there are registers.
template <class V>
HWY_INLINE void Accumulate(V& sum, V product) {
  V next = hn::Add(sum, product);
#if HWY_ARCH_X86 && HWY_COMPILER_GCC && !HWY_COMPILER_CLANG
  auto raw = next.raw;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  asm("" : "+v"(raw));
#else
  asm("" : "+x"(raw));
#endif
  next = V{raw};
#endif
  sum = next;
}

// out[i] = a[2i] * b[2i] + a[2i+1] * b[2i+1].
template <class D32, class V16>
HWY_INLINE hn::Vec<D32> MulPairs(D32 d32, V16 a, V16 b) {
  if constexpr (kHasPairProducts) {
    auto unused = hn::Zero(d32);
    return hn::ReorderWidenMulAccumulate(d32, a, b, hn::Zero(d32), unused);
  } else {
    const auto a32 = hn::BitCast(d32, a);
    const auto b32 = hn::BitCast(d32, b);
    const auto even = hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(a32)),
                              hn::ShiftRight<16>(hn::ShiftLeft<16>(b32)));
    return hn::Add(even, hn::Mul(hn::ShiftRight<16>(a32), hn::ShiftRight<16>(b32)));
  }
}

// sum[i] += a[2i] * b[2i] + a[2i+1] * b[2i+1].
template <class D32, class V16>
HWY_INLINE void AddPairs(D32 d32, hn::Vec<D32>& sum, V16 a, V16 b) {
#if HWY_TARGET == HWY_AVX3_DL
  (void)d32;  // Highway 1.0.3 does not allow the compiler the intrinsics.
  auto raw = sum.raw;
  asm("vpdpwssd %2, %1, %0" : "+v"(raw) : "v"(a.raw), "v"(b.raw));
  sum = hn::Vec<D32>{raw};
#else
  Accumulate(sum, MulPairs(d32, a, b));
#endif
}

#if HWY_TARGET == HWY_AVX3_DL
// sum[i] += a[4i] * b[4i] + .. + a[4i+3] * b[4i+3].
template <class V32, class VU8, class VI8>
HWY_INLINE void AddQuads(V32& sum, VU8 a, VI8 b) {
  auto raw = sum.raw;
  asm("vpdpbusd %2, %1, %0" : "+v"(raw) : "v"(a.raw), "v"(b.raw));
  sum = V32{raw};
}
#endif

// The products of pairs of bytes, in 16 bits, which two products and their sum must fit.
template <class D16, class VU8, class VI8>
HWY_INLINE hn::Vec<D16> MulPairsU8(D16 d16, VU8 a, VI8 b) {
  if constexpr (kHasPairProducts) {
    (void)d16;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    if constexpr (sizeof(a.raw) == 64) return hn::Vec<D16>{_mm512_maddubs_epi16(a.raw, b.raw)};
#endif
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2
    if constexpr (sizeof(a.raw) == 32) return hn::Vec<D16>{_mm256_maddubs_epi16(a.raw, b.raw)};
#endif
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
    if constexpr (sizeof(a.raw) == 16) return hn::Vec<D16>{_mm_maddubs_epi16(a.raw, b.raw)};
#endif
  } else {
    const auto a16 = hn::BitCast(d16, a);
    const auto b16 = hn::BitCast(d16, b);
    const auto even =
        hn::Mul(hn::And(a16, hn::Set(d16, 0xff)), hn::ShiftRight<8>(hn::ShiftLeft<8>(b16)));
    // A logical shift of the unsigned ones.
    const hn::RebindToUnsigned<D16> du16;
    const auto a_odd = hn::BitCast(d16, hn::ShiftRight<8>(hn::BitCast(du16, a)));
    return hn::Add(even, hn::Mul(a_odd, hn::ShiftRight<8>(b16)));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pith
HWY_AFTER_NAMESPACE();

#endif  // include guard, per level
