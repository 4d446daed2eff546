// Swift 6.0's libswiftObservation.so on Linux refers to swift::threading::fatal(char const *, ...), which no library of
// that release exports, so nothing that uses Observation links. This is that function, under its mangled name.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

_Noreturn void _ZN5swift9threading5fatalEPKcz(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  abort();
}
