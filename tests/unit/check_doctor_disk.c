/* What the doctor says of the disk tier, from statuses that daemons give. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/doctor.h"
#include "tests/lib/check_main.h"

static char folder[64];
static struct cli cli;
static struct doctor doctor;

static void begin(void)
{
    doctor = (struct doctor){.cli = &cli, .findings = json_array()};
    (void)snprintf(folder, sizeof folder, "/tmp/kveik-doctor-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void end(void)
{
    json_decref(doctor.findings);
    ck_assert_int_eq(rmdir(folder), 0); /* and nothing is left in it */
}

/* The status of a tier that is well, in `folder`. */
static json_t *well(void)
{
    json_t *disk =
        json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:s, s:i, s:i, s:i, s:i, s:{s:i}}", "state", "up",
                  "path", folder, "io", "io_uring", "io_why", "", "readable", 1, "writable", 1,
                  "last_error", "", "bytes_max", 1000, "segment_file_bytes", 400,
                  "file_system_free_bytes", 600, "parts", 7, "counters", "corrupt_parts", 0);
    return json_pack("{s:o, s:{}}", "disk", disk, "cpu");
}

static void look(json_t *status)
{
    (void)json_array_clear(doctor.findings);
    (void)memset(doctor.counts, 0, sizeof doctor.counts);
    doctor_check_disk(&doctor, status);
}

/* Of the last look(): the finding of `check` has this result and these words, and advice exactly
 * when it is not well. */
static void expect(const char *check, const char *result, const char *words)
{
    size_t index = 0;
    json_t *entry = NULL;
    uint32_t found = 0;
    json_array_foreach(doctor.findings, index, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "check"));
        if (strcmp(name, check) != 0) {
            continue;
        }
        found++;
        const char *got = json_string_value(json_object_get(entry, "result"));
        const char *said = json_string_value(json_object_get(entry, "finding"));
        ck_assert_msg(strcmp(got, result) == 0, "%s: %s: %s", check, got, said);
        ck_assert_msg(strstr(said, words) != NULL, "%s: %s", check, said);
        ck_assert_int_eq(json_is_string(json_object_get(entry, "advice")),
                         strcmp(result, "ok") != 0);
    }
    ck_assert_msg(found == 1, "%s: %u findings", check, found);
}

static json_t *disk_of(json_t *status)
{
    return json_object_get(status, "disk");
}

START_TEST(a_tier_that_is_well)
    {
        begin();
        json_t *status = well();
        look(status);
        expect("disk tier", "ok", "7 parts");
        expect("disk I/O", "ok", "io_uring");
        ck_assert_uint_eq(doctor.counts[DOCTOR_PROBLEM], 0);
        json_decref(status);
        end();
    }
END_TEST

START_TEST(degraded_tiers)
    {
        begin();
        json_t *status = well();
        json_t *disk = disk_of(status);
        (void)json_object_set_new(disk, "state", json_string("degraded"));
        (void)json_object_set_new(disk, "writable", json_false());
        (void)json_object_set_new(disk, "last_error", json_string("no space is left"));
        look(status);
        expect("disk tier", "warning", "not written: no space is left");
        (void)json_object_set_new(disk, "readable", json_false());
        look(status);
        expect("disk tier", "problem", "not read: no space is left");
        json_decref(status);
        end();
    }
END_TEST

START_TEST(damaged_blocks_and_past_errors)
    {
        begin();
        json_t *status = well();
        json_t *disk = disk_of(status);
        (void)json_object_set_new(disk, "last_error", json_string("segment 4: short"));
        look(status);
        expect("disk tier", "note", "segment 4: short");
        (void)json_object_set_new(json_object_get(disk, "counters"), "corrupt_parts",
                                  json_integer(3));
        look(status);
        expect("disk tier", "warning", "3 blocks were damaged");
        json_decref(status);
        end();
    }
END_TEST

START_TEST(no_tier)
    {
        json_t *status = json_pack("{s:{s:s, s:s}}", "disk", "state", "off", "why", "");
        doctor = (struct doctor){.cli = &cli, .findings = json_array()};
        look(status);
        expect("disk tier", "note", "turned off");
        (void)json_object_set_new(disk_of(status), "state", json_string("none"));
        look(status);
        expect("disk tier", "warning", "too little room");
        (void)json_object_set_new(disk_of(status), "why", json_string("Permission denied"));
        look(status);
        expect("disk tier", "warning", "Permission denied");
        json_decref(status);
        json_decref(doctor.findings);
    }
END_TEST

START_TEST(threads)
    {
        begin();
        json_t *status = well();
        json_t *disk = disk_of(status);
        (void)json_object_set_new(disk, "io", json_string("threads"));
        look(status);
        expect("disk I/O", "note", "as it was told");
        (void)json_object_set_new(disk, "io_why", json_string("cannot be set up: not permitted"));
        look(status);
        expect("disk I/O", "warning", "io_uring cannot be set up: not permitted");
        json_decref(status);
        end();
    }
END_TEST

START_TEST(room)
    {
        begin();
        json_t *status = well();
        json_t *disk = disk_of(status);
        (void)json_object_set_new(disk, "path", json_string("/proc"));
        look(status);
        expect("disk room", "ok", "600");
        (void)json_object_set_new(disk, "file_system_free_bytes", json_integer(599));
        look(status);
        expect("disk room", "warning", "only 599");
        json_decref(status);
        end();
    }
END_TEST

START_TEST(folders)
    {
        begin();
        json_t *status = well();
        json_t *disk = disk_of(status);
        look(status); /* whatever /tmp is, it is said, and nothing is left behind */
        (void)json_object_set_new(disk, "path", json_string("/nonexistent/kveik"));
        look(status);
        expect("direct disk I/O", "skipped", "/nonexistent/kveik");
        if (access("/dev/shm", W_OK) == 0) {
            (void)json_object_set_new(disk, "path", json_string("/dev/shm"));
            look(status);
            expect("disk room", "warning", "in memory");
        }
        json_decref(status);
        end();
    }
END_TEST

START_TEST(memory_in_a_file)
    {
        begin();
        json_t *status = well();
        json_t *cpu = json_object_get(status, "cpu");
        (void)json_object_set_new(cpu, "file", json_string("/dev/shm/kveik/pool"));
        (void)json_object_set_new(cpu, "file_system", json_string("tmpfs"));
        look(status);
        expect("CPU tier's file", "ok", "tmpfs");
        (void)json_object_set_new(cpu, "file_system", json_string("other"));
        look(status);
        expect("CPU tier's file", "warning", "not in memory");
        json_decref(status);
        end();
    }
END_TEST

START_TEST(strange_statuses)
    {
        static const char *const texts[] = {"{}", "{\"disk\": 5}", "{\"disk\": {}}",
                                            "{\"disk\": {\"state\": \"up\"}, \"cpu\": []}",
                                            "{\"disk\": {\"state\": 7, \"why\": []}}"};
        doctor = (struct doctor){.cli = &cli, .findings = json_array()};
        look(NULL);
        ck_assert_uint_gt(json_array_size(doctor.findings), 0);
        for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
            json_t *status = json_loads(texts[i], 0, NULL);
            ck_assert_ptr_nonnull(status);
            look(status);
            ck_assert_uint_gt(json_array_size(doctor.findings), 0);
            json_decref(status);
        }
        json_decref(doctor.findings);
    }
END_TEST

START_TEST(options_of_mounts)
    {
        static const struct {
            const char *options;
            const char *value;
        } cases[] = {{"rw,huge=within_size,size=5", "within_size"},
                     {"huge=advise", "advise"},
                     {"rw,nothuge=always", ""},
                     {"rw,hugely=1,huge", ""},
                     {"", ""},
                     {"rw,huge=", ""}};
        for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
            char value[32];
            doctor_mount_option(cases[i].options, "huge", value, sizeof value);
            ck_assert_str_eq(value, cases[i].value);
        }
        char tiny[4];
        doctor_mount_option("huge=within_size", "huge", tiny, sizeof tiny);
        ck_assert_str_eq(tiny, "wit");
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_tier_that_is_well,
                                  degraded_tiers,
                                  damaged_blocks_and_past_errors,
                                  no_tier,
                                  threads,
                                  room,
                                  folders,
                                  memory_in_a_file,
                                  strange_statuses,
                                  options_of_mounts};
    return check_main("doctor_disk", tests, ARRAY_COUNT(tests));
}
