package org.edgegen.core

/** The kinds of expected failures; [word] is the name that the shared test vectors use. */
enum class Kind {
    NO_MANIFEST,
    UNREADABLE_MANIFEST,
    UNKNOWN_VERSION,
    FOREIGN_NETWORKS,
    BAD_FIELD,
    BAD_VALUE,
    BAD_SIGMAS,
    BAD_SHAPE,
    INCOMPLETE,
    PATH_OUTSIDE,
    MISSING_FILE,
    CHANGED_FILE,
    BAD_ZIP,
    NO_SPACE,
    NO_MEMORY,
    BAD_INPUT,
    NOT_FINITE,
    RUNTIME,
    NO_BUNDLE,
    ;

    val word: String get() = name.lowercase()
}

/** An expected failure: [message] names the value and the limit it broke, [remedy] what to do next. */
class Failure(val kind: Kind, message: String, val remedy: String = "", cause: Throwable? = null) :
    Exception(message, cause)
