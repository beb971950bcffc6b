// The expressions are facts about the models: each was published in the `tokenizer.json` of the
// model named. Where llama.cpp (src/llama-vocab.cpp, v0.5.0) departs from that file, which it does
// for the letter classes of tekken and gpt-4o, its reading is followed, because GGUF files are made
// for it and tests compare with it. No expression repeats a group, so matching needs no stack.
// Which characters are letters, marks and numbers is as PCRE2's edition of Unicode has it.
#include "text/pretokenizer_rules.h"

namespace pith {
namespace {

#define PITH_CONTRACTION R"('(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL]))"
#define PITH_SPACES R"(\s*[\r\n]+|\s+(?!\S)|\s+)"
// Letters that are not ASCII lower case, letters that are not ASCII upper case.
#define PITH_UPPER R"([^\P{L}a-z])"
#define PITH_LOWER R"([^\P{L}A-Z])"
#define PITH_MIXED_CASE(tail)                                                                    \
  R"([^\r\n\p{L}\p{N}]?)" PITH_UPPER "*" PITH_LOWER "+" tail R"(|[^\r\n\p{L}\p{N}]?)" PITH_UPPER \
  "+" PITH_LOWER "*" tail
#define PITH_ASCII_PUNCTUATION R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~])"
// The CJK and Hangul class of DeepSeek, without the White_Space in its range U+0800 to U+4E00.
#define PITH_DEEPSEEK_CJK                                                   \
  R"([\x{800}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E})" \
  R"(\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{9FA5}\x{AC00}-\x{D7FF}]+)"

constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kThreeDigits = R"(\p{N}{1,3})";
constexpr std::string_view kThreeAsciiDigits = "[0-9][0-9][0-9]";
constexpr std::string_view kChineseJapanese = R"([\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+)";

// GPT-2 (Radford et al. 2019, encoder.py).
constexpr std::string_view kGpt2 =
    R"('(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 = PITH_CONTRACTION
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" PITH_SPACES;
constexpr std::string_view kQwen2 =
    PITH_CONTRACTION R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" PITH_SPACES;
constexpr std::string_view kQwen35 = PITH_CONTRACTION
    R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" PITH_SPACES;
constexpr std::string_view kTekken =
    PITH_MIXED_CASE("") R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" PITH_SPACES;
constexpr std::string_view kGpt4o = PITH_MIXED_CASE(
    "(?:" PITH_CONTRACTION ")?") R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" PITH_SPACES;
constexpr std::string_view kDeepSeekV3 = PITH_ASCII_PUNCTUATION
    R"([A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)" PITH_SPACES;
constexpr std::string_view kSpark = PITH_ASCII_PUNCTUATION
    R"([A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kBailing =
    R"('(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kSeedCoder =
    PITH_CONTRACTION R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|)" PITH_SPACES;
constexpr std::string_view kUfakzeka =
    R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" PITH_SPACES;
constexpr std::string_view kMiniCpm5 =
    PITH_CONTRACTION R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|)" PITH_SPACES;
constexpr std::string_view kYoutuScripts =
    R"([\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019})"
    R"(\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+)"
    R"(|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+)";
constexpr std::string_view kYoutu = R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:)" PITH_CONTRACTION
                                    R"()?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" PITH_SPACES;
constexpr std::string_view kBloom =
    R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)";
// Cased letters, as DeepSeek-LLM lists them.
constexpr std::string_view kDeepSeekLetters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})"
    R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})"
    R"(\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"
    R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
    R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D})"
    R"(\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"
    R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"
    R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
    R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"
    R"(\x{1E900}-\x{1E943}]+)";
constexpr std::string_view kDeepSeekPunctuation =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3001}\x{3002}]+)";
// `\s+$`, in a form that looks at every run of spaces once.
constexpr std::string_view kTrailingSpace = R"((?<!\s)\s++\z)";

#undef PITH_CONTRACTION
#undef PITH_SPACES
#undef PITH_UPPER
#undef PITH_LOWER
#undef PITH_MIXED_CASE
#undef PITH_ASCII_PUNCTUATION

std::vector<PreTokenizerRule> MakeRules() {
  return {
      {{"default"}, {R"([\p{P}$+<=>^~|]+)", kGpt2, R"(\p{N}+)", kThreeAsciiDigits}},
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat",
        "a.x-4.0", "mellum", "exaone4"},
       {kGpt2}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "mellum2"},
       {kDigit, kGpt2}},
      {{"falcon"}, {R"([\p{P}$+<=>^~|`]+)", kGpt2, kThreeAsciiDigits}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
       {kLlama3},
       true,
       true},
      {{"dbrx", "smaug-bpe", "chatglm-bpe"}, {kLlama3}},
      {{"glm4", "glm5"}, {kLlama3}, true},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "grok-2", "solar-open",
        "kormo", "f2llmv2"},
       {kQwen2}},
      {{"qwen35"}, {kQwen35}},
      {{"tekken"}, {kTekken}, true, true},
      {{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, {kGpt4o}},
      {{"deepseek-llm"},
       {R"([\r\n])", kDeepSeekLetters, kDeepSeekPunctuation, kTrailingSpace, PITH_DEEPSEEK_CJK,
        R"(\p{N}+)"}},
      {{"deepseek-coder"},
       {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", PITH_DEEPSEEK_CJK, kDigit}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
       {kThreeDigits, kChineseJapanese, kDeepSeekV3}},
      {{"spark2_5"}, {kThreeDigits, kChineseJapanese, kSpark, kDigit}},
      {{"youtu"}, {kYoutuScripts, kYoutu}, true},
      {{"bloom", "poro-chat", "gpt3-finnish"}, {kBloom}},
      {{"viking"}, {kBloom, kDigit}},
      {{"chameleon"},
       {"<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", R"([\t\n]|    |  )", kDigit,
        R"([\p{P}!-/:-@\[-`{-~])", kGpt2},
       false,
       true},
      {{"bailingmoe", "bailingmoe2", "llada-moe"}, {kBailing}},
      {{"seed-coder"}, {kSeedCoder}},
      {{"ufakzeka"}, {kUfakzeka}},
      {{"laguna"}, {R"([^\n]+|\n+)", kQwen2}},
      {{"minicpm5"}, {kThreeDigits, kMiniCpm5}, true},
  };
}
#undef PITH_DEEPSEEK_CJK

}  // namespace

std::span<const PreTokenizerRule> PreTokenizerRules() {
  static const std::vector<PreTokenizerRule> rules = MakeRules();
  return rules;
}

}  // namespace pith
