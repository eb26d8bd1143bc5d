// Tensors of strings: what generated code, which moves their elements as 16 bytes, cannot do.
//
// Strings are UTF-8; bytes that are not (which the runtime keeps out) stand for U+FFFD, one each. Sizes are bytes,
// orders are those of bytes, which is that of code points.
//
// string_equal         (a, b, both string [d…]) -> bool [d…]
// string_concat        (a, b, both string [d…]) -> string [d…]
// string_split         (x [d…], delimiter? []) -> parts [d…, m], counts int64 [d…]; int: how often a string is split
//                      at most, -1 for always. As Python's str.split: without a delimiter, or with an empty one, at
//                      runs of white space, with none at the ends. m is the largest count; "" fills up.
// string_normalize     (x [n] or [1, n], stopwords? [k]) -> the strings that are not stopwords, [m] or [1, m], with
//                      their case changed; one "" if stopwords leave none (ONNX StringNormalizer). ints: case (0 as
//                      it is, 1 lower, 2 upper), whether stopwords are compared with regard to case. Case is
//                      Unicode's, character by character: what would become several characters stays.
// string_lookup        (x [d…], keys [k], ascending) -> int64 [d…]: the place of each among the keys, or k
// string_rank          (x [d…]) -> int64 [d…]: the place of each in the second output; the different strings [m],
//                      ascending
// string_to_number     (x [d…]) -> any number [d…], in C's decimal or exponent form, inf, infinity, nan in any case,
//                      space around it; integers are written without a point; bool is 0, 1, true or false. Any other
//                      text, and an integer that is out of range, is an error.
// number_to_string     (x, any number [d…]) -> string [d…]: the shortest text that reads back as the same number (of 16
// bits:
//                      as the same float32);
//                      INF, -INF, NaN; bool is 0 or 1
// regex_full_match     (x [d…], instructions int64 [n, 3], ranges int64 [r, 2]) -> bool [d…]: whether a program
//                      (RegexOp) accepts all of a string, in time of its length times n
// tokenize             (x [d…], instructions, ranges, pad []) -> tokens [d…, m]: what a program finds, from left to
//                      right the longest, or what lies between; `pad` fills up. No token is empty. ints: 0 matches or
//                      1 what lies between, the least number of code points of a token, whether U+0002 and U+0003
//                      mark start and end
// tfidf                (x [n] or [b, n], vocabulary [v], ascending and of the same type, edges int64 [e, 3], weights?
//                      [m]) -> float [m] or [b, m]: how often n-grams occur (ONNX TfIdfVectorizer), for strings and
//                      int64. Row i of `edges` (node, place in the vocabulary, column or -1) leads to node i + 1;
//                      rows ascend, node 0 is the start. ints: mode (0 counts, 1 whether, 2 counts times weights),
//                      least and most words of an n-gram, most words to skip between two
#pragma once

#include "kernel.h"

namespace ingot {

// (operation, a, b); targets are numbers of instructions.
enum class RegexOp : int64_t {
  kMatch = 0,      // the string is accepted if it ends here
  kJump = 1,       // to a
  kSplit = 2,      // to a and to b
  kCharacter = 3,  // one code point within one of b ranges (first, last), which start at row a of `ranges`
  kAssert = 4,  // holds at the start (a = 0), at the end (1), where an ASCII word starts or ends (2), or elsewhere (3)
};

void StringEqual(KernelContext& context);
void StringConcat(KernelContext& context);
void StringSplit(KernelContext& context);
void StringNormalize(KernelContext& context);
void StringLookup(KernelContext& context);
void StringRank(KernelContext& context);
void StringToNumber(KernelContext& context);
void NumberToString(KernelContext& context);
void RegexFullMatch(KernelContext& context);
void Tokenize(KernelContext& context);
void TfIdf(KernelContext& context);

}  // namespace ingot
