#include "base/escape.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

/* The longest thing written for one character: "\u2028" with its NUL. */
enum { PIECE_BYTES = 8, UTF8_BYTES_MAX = 4 };

static const uint32_t no_character = UINT32_MAX;

/* Decodes the character at the front of `text` (bytes > 0). A byte that begins none gives
 * no_character and a length of 1. Overlong forms, surrogates and what lies beyond Unicode are
 * refused, as every strict decoder behind us would. */
static uint32_t decode(const unsigned char *text, size_t bytes, size_t *length_out)
{
    static const uint32_t least[UTF8_BYTES_MAX + 1] = {0, 0, 0x80, 0x800, 0x10000};
    *length_out = 1;
    unsigned char first = text[0];
    if (first < 0x80) {
        return first;
    }
    size_t length = 0;
    if (first >= 0xc2 && first <= 0xdf) {
        length = 2;
    } else if (first >= 0xe0 && first <= 0xef) {
        length = 3;
    } else if (first >= 0xf0 && first <= 0xf4) {
        length = 4;
    }
    if (length == 0 || length > bytes) {
        return no_character;
    }
    uint32_t code = (uint32_t)first & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return no_character;
        }
        code = code << 6 | (text[i] & 0x3fu);
    }
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
        return no_character;
    }
    *length_out = length;
    return code;
}

/* Characters that move the cursor, break the line or turn the direction of what follows. */
static bool is_dangerous(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) ||
           code == 0xfeff;
}

static const char *short_escape(uint32_t code)
{
    switch (code) {
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    case '\\':
        return "\\\\";
    default:
        return NULL;
    }
}

/* What is written for one character; 0 when the bytes themselves are. */
static size_t piece_text(uint32_t code, unsigned char byte, char piece[PIECE_BYTES])
{
    const char *known = short_escape(code);
    int used = 0;
    if (known != NULL) {
        used = snprintf(piece, PIECE_BYTES, "%s", known);
    } else if (code == no_character || (is_dangerous(code) && code < 0x80)) {
        used = snprintf(piece, PIECE_BYTES, "\\x%02x", (unsigned)byte);
    } else if (is_dangerous(code)) {
        used = snprintf(piece, PIECE_BYTES, "\\u%04x", (unsigned)code);
    }
    return (size_t)used;
}

static size_t piece_json(uint32_t code, unsigned char byte, char piece[PIECE_BYTES])
{
    (void)byte; /* JSON has no escape for a byte that is no character */
    const char *known = code == '"' ? "\\\"" : short_escape(code);
    int used = 0;
    if (known != NULL) {
        used = snprintf(piece, PIECE_BYTES, "%s", known);
    } else if (code == no_character) {
        used = snprintf(piece, PIECE_BYTES, "\\ufffd");
    } else if (is_dangerous(code)) {
        used = snprintf(piece, PIECE_BYTES, "\\u%04x", (unsigned)code);
    }
    return (size_t)used;
}

typedef size_t (*piece_fn)(uint32_t code, unsigned char byte, char piece[PIECE_BYTES]);

static size_t escape(const char *text, size_t text_bytes, piece_fn piece_of, char *out,
                     size_t out_bytes, bool *cut_out)
{
    KVEIK_ASSERT(text != NULL && out != NULL && out_bytes > 0);
    const unsigned char *bytes = (const unsigned char *)text;
    size_t used = 0;
    size_t at = 0;
    while (at < text_bytes) {
        size_t length = 0;
        uint32_t code = decode(bytes + at, text_bytes - at, &length);
        char piece[PIECE_BYTES];
        size_t piece_bytes = piece_of(code, bytes[at], piece);
        const char *source = piece_bytes == 0 ? text + at : piece;
        piece_bytes = piece_bytes == 0 ? length : piece_bytes;
        if (used + piece_bytes >= out_bytes) {
            break;
        }
        (void)memcpy(out + used, source, piece_bytes);
        used += piece_bytes;
        at += length;
    }
    out[used] = '\0';
    if (cut_out != NULL) {
        *cut_out = at < text_bytes;
    }
    return used;
}

size_t escape_text(const char *text, size_t text_bytes, char *out, size_t out_bytes, bool *cut_out)
{
    return escape(text, text_bytes, piece_text, out, out_bytes, cut_out);
}

size_t escape_json(const char *text, size_t text_bytes, char *out, size_t out_bytes, bool *cut_out)
{
    return escape(text, text_bytes, piece_json, out, out_bytes, cut_out);
}
