/* kveikd --check-store: every byte on disk against its checksum, with the daemon down. */
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "daemon/server/server.h"
#include "daemon/server/settings.h"
#include "storage/disk/disk.h"

enum { BAR_CELLS = 40, BAR_MS = 200, LINE_MS = 5000, PATH_BYTES = 4096 };

struct progress {
    uint64_t shown_ms;
    bool terminal;
};

static void on_progress(void *ctx, uint64_t done, uint64_t all)
{
    struct progress *progress = ctx;
    uint64_t now = clock_ms();
    bool over = done == all;
    if (!over && now - progress->shown_ms < (progress->terminal ? BAR_MS : LINE_MS)) {
        return;
    }
    progress->shown_ms = now;
    char read_text[SIZE_TEXT_BYTES];
    char all_text[SIZE_TEXT_BYTES];
    size_format_short(done, read_text);
    size_format_short(all, all_text);
    unsigned percent = all == 0 ? 100 : (unsigned)((double)done / (double)all * 100.0);
    if (!progress->terminal) {
        (void)fprintf(stderr, "%s of %s checked, %u %%\n", read_text, all_text, percent);
        return;
    }
    char bar[BAR_CELLS + 1];
    for (unsigned i = 0; i < BAR_CELLS; i++) {
        bar[i] = i * 100 < percent * BAR_CELLS ? '#' : '.';
    }
    bar[BAR_CELLS] = '\0';
    (void)fprintf(stderr, "\r[%s] %3u %%  %s of %s ", bar, percent, read_text, all_text);
    if (over) {
        (void)fputc('\n', stderr);
    }
}

static void say(const char *path, const struct disk_check_report *report)
{
    char size[SIZE_TEXT_BYTES];
    size_format_short(report->bytes, size);
    (void)printf("%s: %llu blocks, %s, in %llu segments\n", path, (unsigned long long)report->parts,
                 size, (unsigned long long)report->segments);
    if (report->rebuilt) {
        (void)printf("the catalogue was lost and made again from the segments\n");
    }
    (void)printf("damaged blocks dropped: %llu\nstale entries dropped: %llu\ndamaged segments: "
                 "%llu\n",
                 (unsigned long long)report->damaged_parts,
                 (unsigned long long)report->stale_entries,
                 (unsigned long long)report->damaged_segments);
}

int server_check_store(const struct settings *settings, struct log *log, bool *clean_out,
                       struct error *error)
{
    char path[PATH_BYTES];
    if (settings_disk_path(settings, path, sizeof path) != ST_OK) {
        return error_set(error, ST_INVALID, "disk-path is too long");
    }
    if (access(path, F_OK) != 0) {
        return error_set(error, ST_INVALID, "there is no store at %s: see disk-path", path);
    }
    struct disk_options options = {.directory = path,
                                   .bytes_max = settings->disk_segment_bytes * DISK_SEGMENTS_MAX,
                                   .keep_free_percent = 0,
                                   .segment_bytes = settings->disk_segment_bytes,
                                   .io = (enum disk_io_kind)settings->disk_io,
                                   .depth = settings->disk_depth,
                                   .jobs_max = settings->disk_depth,
                                   .sync_ms = (uint32_t)settings->disk_sync_ms,
                                   .slow_ms = settings->disk_slow_ms,
                                   .log = log};
    struct progress progress = {.terminal = isatty(STDERR_FILENO) == 1};
    struct disk_check_report report = {0};
    int status = disk_check(&options, on_progress, &progress, &report, error);
    if (status == ST_OK) {
        say(path, &report);
        *clean_out = report.damaged_parts == 0 && report.stale_entries == 0 &&
                     report.damaged_segments == 0 && !report.rebuilt;
    }
    return status;
}
