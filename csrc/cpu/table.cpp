#include "amx.h"
#include "declare.h"

#define MINILLM_TEXT_OF(name) #name
#define MINILLM_TEXT(name) MINILLM_TEXT_OF(name)

namespace minillm::MINILLM_ISA {

#define MINILLM_ENTRY(name, arguments) name,
extern const Kernels kernels;
const Kernels kernels{MINILLM_TEXT(MINILLM_ISA), MINILLM_AMX != 0, MINILLM_KERNELS(MINILLM_ENTRY)};
#undef MINILLM_ENTRY

}  // namespace minillm::MINILLM_ISA
