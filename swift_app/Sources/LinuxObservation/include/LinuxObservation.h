// Nothing to declare: the target exists for the symbol that fatal.c defines.
