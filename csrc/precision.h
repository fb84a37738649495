// Whether matrix products round their operands to bfloat16 where the processor can multiply those.
#pragma once

namespace minillm {

bool bf16_products();
void set_bf16_products(bool wanted);

}  // namespace minillm
