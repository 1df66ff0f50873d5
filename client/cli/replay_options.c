/* What `kveik replay` takes, and its help. */
#include "base/assert.h"
#include "client/cli/replay.h"

#define FIELD(name) offsetof(struct replay_settings, name)
#define MIB(n)      ((uint64_t)(n) << 20)

/* In the order of enum kveik_memory_mode. */
static const char *const memory_choices[] = {"auto", "shared", "adopt", "cross", NULL};

static const struct option_spec specs[] = {
    {.name = "cache-blocks",
     .kind = OPTION_U64,
     .preset = "0",
     .offset = FIELD(cache_blocks),
     .preset_note = "no limit but the daemon's own",
     .help = "let the cache hold so many blocks: a quota on the replay's space"},
    {.name = "cache-bytes",
     .kind = OPTION_SIZE,
     .preset = "0",
     .offset = FIELD(cache_bytes),
     .preset_note = "no limit but the daemon's own",
     .help = "the same in bytes as the daemon stores them: blocks above 16 KiB are rounded up to 4 "
             "KiB, smaller ones to 512 bytes"},
    {.name = "block-tokens",
     .kind = OPTION_U32,
     .preset = "0",
     .offset = FIELD(block_tokens),
     .max = TRACE_BLOCK_TOKENS_MAX,
     .preset_note = "what an id of the trace names",
     .help = "tokens of a block, a multiple of 16; blocks subdivide or join those of the trace"},
    {.name = "block-bytes",
     .kind = OPTION_SIZE,
     .preset = "64KiB",
     .offset = FIELD(block_bytes),
     .min = 16,
     .max = MIB(256),
     .help = "KV bytes of a block, in all planes together; a multiple of layers x kinds x heads x "
             "tokens"},
    {.name = "layers",
     .kind = OPTION_U32,
     .preset = "1",
     .offset = FIELD(layers),
     .min = 1,
     .max = 1024,
     .help = "layers: a block's bytes lie in layers x kinds planes"},
    {.name = "kinds",
     .kind = OPTION_U32,
     .preset = "2",
     .offset = FIELD(kinds),
     .min = 1,
     .max = KVEIK_KINDS_MAX,
     .help = "planes a layer: 2 for K and V, 1 for latent caches"},
    {.name = "heads",
     .kind = OPTION_U32,
     .preset = "1",
     .offset = FIELD(heads),
     .min = 1,
     .max = 4096,
     .help = "KV heads"},
    {.name = "engines",
     .kind = OPTION_U32,
     .preset = "1",
     .offset = FIELD(engines),
     .min = 1,
     .max = REPLAY_ENGINES_MAX,
     .help = "processes that play engines; requests are dealt to them in turn"},
    {.name = "in-flight",
     .kind = OPTION_U32,
     .preset = "1",
     .offset = FIELD(in_flight),
     .min = 1,
     .max = REPLAY_IN_FLIGHT_MAX,
     .help = "requests at once, of one engine"},
    {.name = "requests",
     .kind = OPTION_U32,
     .preset = "0",
     .offset = FIELD(requests),
     .preset_note = "all",
     .help = "play only so many, from the beginning"},
    {.name = "speed",
     .kind = OPTION_U32,
     .preset = "0",
     .offset = FIELD(speed),
     .preset_note = "as fast as it goes",
     .max = 1000000,
     .help = "begin requests by the trace's clock, so many times as fast"},
    {.name = "verify",
     .kind = OPTION_BOOL,
     .preset = "no",
     .offset = FIELD(verify),
     .help = "fill every block with bytes made from its key and compare every byte that is pulled"},
    {.name = "format",
     .kind = OPTION_CHOICE,
     .preset = "auto",
     .offset = FIELD(format),
     .choices = trace_format_names,
     .help = "the trace's schema; auto looks at its first line"},
    {.name = "id-tokens",
     .kind = OPTION_U32,
     .preset = "0",
     .offset = FIELD(id_tokens),
     .max = TRACE_BLOCK_TOKENS_MAX,
     .preset_note = "by format: mooncake 512, qwen 16",
     .help = "tokens that one id of hash_ids names"},
    {.name = "deadline",
     .kind = OPTION_DURATION_MS,
     .preset = "10s",
     .offset = FIELD(deadline_ms),
     .min = 1,
     .max = 600000,
     .help = "give a lookup, pull or push up after this"},
    {.name = "plain-lru",
     .kind = OPTION_BOOL,
     .preset = "no",
     .offset = FIELD(plain_lru),
     .help = "move blocks one at a time, in the prompt's order and without leases: the daemon's "
             "eviction is plain LRU then, to be compared with other people's figures; slow"},
    {.name = "memory",
     .kind = OPTION_CHOICE,
     .preset = "shared",
     .offset = FIELD(memory),
     .choices = memory_choices,
     .help = "how engines share their memory: allocated as shared, private and adopted, or private "
             "and copied across processes"},
    CLI_COMMON_SPECS,
};

#undef FIELD
#undef MIB

const struct options_table replay_options = {
    .program = "kveik replay",
    .version = KVEIK_VERSION,
    .summary =
        "Plays a recorded request trace against the running daemon, as engines would: for each "
        "request a lookup that leases what is found, a pull of that, and a push of the rest. FILE "
        "(- for standard input) holds one JSON object a line, in one of two schemas:\n"
        "mooncake: timestamp in ms, input_length, output_length, hash_ids of 512 tokens;\n"
        "qwen: chat_id, parent_chat_id, timestamp in s, input_length, output_length, type, turn, "
        "hash_ids of 16 tokens.\v"
        "Token ids are made from the trace's ids, so prompts share prefixes exactly as they did "
        "when it was taken. The replay has a space of its own in the daemon: it meets no other "
        "block, its cache size is chosen here, and what it pushed is forgotten at its end. The "
        "daemon evicts what was used longest ago, of blocks used together the last of the prompt "
        "first.\n\n"
        "The hit ratio is the share of block references found in an unbroken run from the "
        "beginning of the prompt; a last block that the prompt does not fill counts as one. "
        "Latencies are from submit to completion; making keys and, with --verify, making and "
        "comparing bytes are not in them. Rates are bytes over the summed latencies.\n\n"
        "With --json: requests, references, unique, hits, hit_ratio (0 to 1), block_tokens, "
        "block_bytes, cache_blocks (0: no quota), chunk_blocks (of one push or pull), engines, "
        "in_flight, memory (how engines share "
        "theirs), pushed_bytes, pulled_bytes, stored_blocks, held_blocks (somebody was faster), "
        "refused_blocks, missed_blocks (gone under a lease: never right), wrong_blocks, "
        "wrong_bytes (null without --verify), errors (by status name), wall_s, requests_a_second, "
        "hash_s, late_ms (with --speed: the most a request began late), and operations: for "
        "lookup, pull and push count, p50_us, p90_us, p99_us, max_us, mean_us, gb_a_second.\n\n"
        "Exit codes: 0 good; 1 wrong bytes, errors or a failed engine; 2 wrong usage, or a file "
        "that is no trace; 3 the daemon is not reachable.",
    .arguments = "FILE",
    .env_prefix = CLI_ENV_PREFIX,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct replay_settings),
};
