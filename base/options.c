#include "base/options.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/escape.h"
#include "base/heap.h"
#include "base/options_internal.h"

static const char *const source_names[OPTION_SOURCE_COUNT] = {"default", "file", "environment",
                                                              "command line"};

const char *option_source_name(enum option_source source)
{
    KVEIK_ASSERT(source < OPTION_SOURCE_COUNT);
    return source_names[source];
}

/* A table is code: what is wrong in it is a bug, found by the first run. */
static void check_table(const struct options_table *table)
{
    KVEIK_ASSERT(table->program != NULL && table->version != NULL && table->summary != NULL);
    KVEIK_ASSERT(table->env_prefix != NULL);
    for (uint32_t i = 0; i < table->count; i++) {
        const struct option_spec *spec = &table->specs[i];
        char environment_name[OPTION_NAME_BYTES];
        option_environment_name(table, spec->name, environment_name);
        KVEIK_ASSERT(option_find(table, spec->name) == (int)i);
        KVEIK_ASSERT(spec->preset != NULL && spec->help != NULL);
        KVEIK_ASSERT(spec->kind != OPTION_CHOICE || spec->choices != NULL);
        KVEIK_ASSERT(spec->offset + option_value_bytes(spec->kind) <= table->settings_bytes);
        struct option_value value;
        int status = option_value_parse(spec, spec->preset, &value, NULL);
        KVEIK_ASSERT(status == ST_OK);
    }
}

struct options *options_create(const struct options_table *table)
{
    KVEIK_ASSERT(table != NULL);
    check_table(table);
    struct options *options = heap_calloc(1, sizeof *options);
    if (options == NULL) {
        return NULL;
    }
    *options = (struct options){.magic = OPTIONS_MAGIC, .table = table};
    options->slots = heap_calloc(table->count, sizeof *options->slots);
    if (options->slots == NULL) {
        options_destroy(options);
        return NULL;
    }
    return options;
}

static void free_texts(char **texts, uint32_t count)
{
    for (uint32_t i = 0; texts != NULL && i < count; i++) {
        heap_free(texts[i]);
    }
    heap_free(texts);
}

void options_destroy(struct options *options)
{
    if (options == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(options, OPTIONS_MAGIC);
    for (uint32_t i = 0; options->slots != NULL && i < options->table->count; i++) {
        for (int source = 0; source < OPTION_SOURCE_COUNT; source++) {
            heap_free(options->slots[i].texts[source]);
        }
    }
    heap_free(options->slots);
    heap_free(options->config_path);
    options->magic = 0;
    heap_free(options);
}

int option_slot_set(struct options *options, uint32_t index, enum option_source source,
                    const char *text, struct error *error)
{
    KVEIK_ASSERT(index < options->table->count && source != OPTION_FROM_DEFAULT);
    struct option_value value;
    int status = option_value_parse(&options->table->specs[index], text, &value, error);
    if (status != ST_OK) {
        return status;
    }
    char *copy = heap_strdup(text);
    if (copy == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    heap_free(options->slots[index].texts[source]);
    options->slots[index].texts[source] = copy;
    return ST_OK;
}

static const char *effective(const struct options *options, uint32_t index,
                             enum option_source *source_out)
{
    for (int source = OPTION_SOURCE_COUNT - 1; source > OPTION_FROM_DEFAULT; source--) {
        const char *text = options->slots[index].texts[source];
        if (text != NULL) {
            *source_out = (enum option_source)source;
            return text;
        }
    }
    *source_out = OPTION_FROM_DEFAULT;
    return options->table->specs[index].preset;
}

static const char *look_up(char *const *environment, const char *name)
{
    size_t length = strlen(name);
    for (; *environment != NULL; environment++) {
        if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=') {
            return *environment + length + 1;
        }
    }
    return NULL;
}

static int set_config_path(struct options *options, const char *path, bool needed,
                           struct error *error)
{
    char *copy = heap_strdup(path);
    if (copy == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    options->config_path = copy;
    options->config_needed = needed;
    return ST_OK;
}

static int read_environment(struct options *options, char *const *environment, struct error *error)
{
    const struct options_table *table = options->table;
    char name[OPTION_NAME_BYTES];
    for (uint32_t i = 0; i < table->count; i++) {
        option_environment_name(table, table->specs[i].name, name);
        const char *text = look_up(environment, name);
        int status = text == NULL
                         ? ST_OK
                         : option_slot_set(options, i, OPTION_FROM_ENVIRONMENT, text, error);
        if (status != ST_OK) {
            (void)error_wrap(error, "environment variable %s", name);
            return status;
        }
    }
    option_environment_name(table, "config", name);
    const char *path = table->config_file ? look_up(environment, name) : NULL;
    if (path != NULL && *path != '\0' && options->config_path == NULL) {
        return set_config_path(options, path, true, error);
    }
    return ST_OK;
}

/* A file that nobody asked for may be missing; one that is there must be right. */
static int choose_default_file(struct options *options, struct error *error)
{
    const char *path = options->table->config_default;
    if (options->config_path != NULL || path == NULL || access(path, F_OK) != 0) {
        return ST_OK;
    }
    return set_config_path(options, path, false, error);
}

static int read_file(struct options *options, char ***texts_out, struct error *error)
{
    char **texts = heap_calloc(options->table->count, sizeof *texts);
    if (texts == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    int status = ST_OK;
    bool skip = !options->config_needed && options->config_path != NULL &&
                access(options->config_path, F_OK) != 0;
    if (options->config_path != NULL && !skip) {
        status = options_file_read(options, options->config_path, texts, error);
    }
    if (status != ST_OK) {
        free_texts(texts, options->table->count);
        return status;
    }
    *texts_out = texts;
    return ST_OK;
}

static void store(const struct options *options, uint32_t index, void *settings)
{
    enum option_source source = OPTION_FROM_DEFAULT;
    struct option_value value;
    const struct option_spec *spec = &options->table->specs[index];
    int status = option_value_parse(spec, effective(options, index, &source), &value, NULL);
    KVEIK_ASSERT(status == ST_OK); /* every text was checked when it came in */
    option_value_store(spec, &value, settings);
}

int options_load(struct options *options, const struct options_input *input, void *settings,
                 struct error *error)
{
    KVEIK_CHECK_OBJ(options, OPTIONS_MAGIC);
    KVEIK_ASSERT(input->argc > 0 && settings != NULL);
    int status = options_args_read(options, input->argc, input->argv, error);
    if (status == ST_OK && input->environment != NULL) {
        status = read_environment(options, input->environment, error);
    }
    if (status == ST_OK) {
        status = choose_default_file(options, error);
    }
    char **texts = NULL;
    if (status == ST_OK) {
        status = read_file(options, &texts, error);
    }
    if (status != ST_OK) {
        return status;
    }
    KVEIK_ASSERT(texts != NULL);
    for (uint32_t i = 0; i < options->table->count; i++) {
        options->slots[i].texts[OPTION_FROM_FILE] = texts[i];
        store(options, i, settings);
    }
    heap_free(texts);
    return ST_OK;
}

/* True when taking `text` from the file would change what is in force. */
static bool would_change(const struct options *options, uint32_t index, const char *text)
{
    enum option_source source = OPTION_FROM_DEFAULT;
    const char *now = effective(options, index, &source);
    if (source > OPTION_FROM_FILE) {
        return false;
    }
    return strcmp(now, text != NULL ? text : options->table->specs[index].preset) != 0;
}

int options_reload(struct options *options, void *settings, options_changed_fn changed, void *arg,
                   struct error *error)
{
    KVEIK_CHECK_OBJ(options, OPTIONS_MAGIC);
    KVEIK_ASSERT(settings != NULL);
    char **texts = NULL;
    int status = read_file(options, &texts, error);
    if (status != ST_OK) {
        return status;
    }
    KVEIK_ASSERT(texts != NULL);
    for (uint32_t i = 0; i < options->table->count; i++) {
        const struct option_spec *spec = &options->table->specs[i];
        bool changes = would_change(options, i, texts[i]);
        if (changes && changed != NULL) {
            changed(arg, spec, texts[i] != NULL ? texts[i] : spec->preset, spec->reloadable);
        }
        if (spec->reloadable) {
            /* the old text leaves with `texts`, after the settings point to the new one */
            char *old = options->slots[i].texts[OPTION_FROM_FILE];
            options->slots[i].texts[OPTION_FROM_FILE] = texts[i];
            texts[i] = old;
            store(options, i, settings);
        }
    }
    free_texts(texts, options->table->count);
    return ST_OK;
}

char *const *options_arguments(const struct options *options, int *count_out)
{
    KVEIK_CHECK_OBJ(options, OPTIONS_MAGIC);
    *count_out = options->argument_count;
    return options->arguments;
}

const char *options_config_path(const struct options *options)
{
    KVEIK_CHECK_OBJ(options, OPTIONS_MAGIC);
    return options->config_path;
}

uint32_t options_count(const struct options *options)
{
    KVEIK_CHECK_OBJ(options, OPTIONS_MAGIC);
    return options->table->count;
}

void options_view(const struct options *options, uint32_t index, struct option_view *view_out)
{
    KVEIK_CHECK_OBJ(options, OPTIONS_MAGIC);
    KVEIK_ASSERT(index < options->table->count && view_out != NULL);
    *view_out = (struct option_view){.spec = &options->table->specs[index]};
    view_out->text = effective(options, index, &view_out->source);
}

int options_print(const struct options *options, FILE *out)
{
    char *quoted = heap_alloc((size_t)OPTION_TEXT_BYTES_MAX * 6 + 1);
    if (quoted == NULL) {
        return ST_NO_MEMORY;
    }
    int width = 0;
    for (uint32_t i = 0; i < options_count(options); i++) {
        int length = (int)strlen(options->table->specs[i].name);
        width = length > width ? length : width;
    }
    int written = 0;
    for (uint32_t i = 0; i < options_count(options) && written >= 0; i++) {
        struct option_view view;
        options_view(options, i, &view);
        bool text = view.spec->kind == OPTION_STRING || view.spec->kind == OPTION_PATH;
        (void)escape_json(view.text, strlen(view.text), quoted,
                          (size_t)OPTION_TEXT_BYTES_MAX * 6 + 1, NULL);
        const char *mark = text ? "\"" : "";
        written = fprintf(out, "%s:%*s %s%s%s  # %s\n", view.spec->name,
                          width - (int)strlen(view.spec->name), "", mark, quoted, mark,
                          option_source_name(view.source));
    }
    heap_free(quoted);
    return written < 0 || fflush(out) != 0 ? ST_IO : ST_OK;
}
