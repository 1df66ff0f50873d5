# One list of warnings for both compilers; every one is an error.
function(kveik_warnings target)
    target_compile_options(${target} PRIVATE
        -Wall -Wextra -Wpedantic -Werror -Wconversion -Wsign-conversion -Wshadow -Wundef -Wvla
        -Walloca -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wcast-align
        -Wcast-qual -Wwrite-strings -Wpointer-arith -Wformat=2 -Wdouble-promotion
        -Wimplicit-fallthrough -Wswitch-enum -Wframe-larger-than=16384 -Wdate-time
        $<$<C_COMPILER_ID:GNU>:-Wlogical-op -Wduplicated-cond -Wtrampolines>
        $<$<C_COMPILER_ID:Clang>:-Wcomma -Wassign-enum -Wunreachable-code-aggressive>)
    if(NOT KVEIK_SANITIZE)
        # gcc's flow analysis reports impossible null pointers through sanitizer instrumentation
        target_compile_options(${target} PRIVATE -Wnull-dereference)
    endif()
endfunction()
