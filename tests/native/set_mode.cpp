// Sets the floating-point mode of the thread that calls it, and of those that it starts.
#include "mode.h"

extern "C" void SetCallersMode(const char *name) { SetMode(NamedMode(name)); }
