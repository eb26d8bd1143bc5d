#include "cuda/attention_decode/decode.h"

namespace ingot::cuda::decode {

INGOT_DECODE_ELEMENT(AttentionElement::kInt8)

}  // namespace ingot::cuda::decode
