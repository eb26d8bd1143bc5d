#include "cuda/attention_decode/decode.h"

namespace ingot::cuda::decode {

INGOT_DECODE_ELEMENT(AttentionElement::kFp8)

}  // namespace ingot::cuda::decode
