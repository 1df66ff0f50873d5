# Writes a C file with the bytes of another file:
#   cmake -DINPUT=FILE -DOUTPUT=FILE.c -DNAME=symbol -DHEADER=path/of/declarations.h -P embed.cmake
get_filename_component(name ${INPUT} NAME)
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
file(WRITE ${OUTPUT} "/* Generated from ${name}. */
#include \"${HEADER}\"

const unsigned char ${NAME}[] = {
${hex}
};
const size_t ${NAME}_bytes = ${bytes};
")
