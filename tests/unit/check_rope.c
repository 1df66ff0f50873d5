/* Rotary embedding: frequencies against the published formulas written another way, turning
 * against double precision. */
#include <math.h>
#include <stdlib.h>

#include <check.h>

#include "base/assert.h"
#include "base/rng.h"
#include "client/refmodel/model.h"

enum { PAIRS = 32, DIM = 2 * PAIRS };

static const uint32_t places[] = {0, 1, 2, 63, 64, 1000, 8191, 131072, 1000000};

START_TEST(default_and_linear)
    {
        double w[PAIRS];
        double scaled[PAIRS];
        refmodel_rope_default(10000.0, DIM, w);
        refmodel_rope_linear(10000.0, 4.0, DIM, scaled);
        ck_assert_double_eq(w[0], 1.0);
        for (int i = 0; i < PAIRS; i++) {
            double expected = 1.0 / exp(log(10000.0) * 2.0 * i / DIM);
            ck_assert_double_eq_tol(w[i] / expected, 1.0, 1e-12);
            ck_assert_double_eq_tol(scaled[i] * 4.0 / expected, 1.0, 1e-12);
        }
    }
END_TEST

START_TEST(llama3)
    {
        const struct refmodel_rope_llama3 scaling = {500000.0, 8.0, 1.0, 4.0, 8192.0};
        double plain[PAIRS];
        double w[PAIRS];
        int kept = 0;
        int divided = 0;
        refmodel_rope_default(500000.0, DIM, plain);
        refmodel_rope_llama3(&scaling, DIM, w);
        for (int i = 0; i < PAIRS; i++) {
            double turns = 8192.0 * plain[i] / (2.0 * acos(-1.0));
            double share = fmin(fmax((turns - 1.0) / 3.0, 0.0), 1.0);
            double expected = plain[i] * (share + (1.0 - share) / 8.0);
            ck_assert_double_eq_tol(w[i] / expected, 1.0, 1e-12);
            kept += share >= 1.0;
            divided += share <= 0.0;
        }
        ck_assert_int_gt(kept, 0);
        ck_assert_int_gt(divided, 0);
        ck_assert_int_lt(kept + divided, PAIRS);
    }
END_TEST

START_TEST(yarn)
    {
        const struct refmodel_rope_yarn scaling = {10000.0, 4.0, 32.0, 1.0, 4096.0};
        double plain[PAIRS];
        double w[PAIRS];
        refmodel_rope_default(10000.0, DIM, plain);
        double factor = refmodel_rope_yarn(&scaling, DIM, w);
        ck_assert_double_eq_tol(factor, 1.1386294361119891, 1e-12);
        /* index of 32 turns: 64 ln(4096 / (32 tau)) / (2 ln 10000) = 10.46; of one: 22.51 */
        for (int i = 0; i < PAIRS; i++) {
            double share = fmin(fmax((i - 10.0) / 13.0, 0.0), 1.0);
            ck_assert_double_eq_tol(w[i] / (plain[i] * (1.0 - 0.75 * share)), 1.0, 1e-12);
        }
        const struct refmodel_rope_yarn unscaled = {10000.0, 1.0, 32.0, 1.0, 4096.0};
        ck_assert_double_eq(refmodel_rope_yarn(&unscaled, DIM, w), 1.0);
    }
END_TEST

/* Pairs of a partial rotation turn by double-precision angles; the rest of the head stays. */
static void check_turning(enum refmodel_pairing pairing, uint32_t pairs, double factor)
{
    double w[PAIRS];
    struct rng rng = {pairs};
    refmodel_rope_default(10000.0, 2 * pairs, w);
    const struct refmodel_rope rope = {w, factor};
    for (size_t n = 0; n < ARRAY_COUNT(places); n++) {
        float before[DIM];
        float head[DIM];
        float turns[DIM];
        for (int i = 0; i < DIM; i++) {
            before[i] = (float)((int64_t)(rng_next(&rng) >> 32) - (1LL << 31)) * 0x1p-31f;
            head[i] = before[i];
        }
        refmodel_rope_turns(&rope, pairs, places[n], turns);
        refmodel_rope_turn(pairing, pairs, turns, head);
        for (uint32_t i = 0; i < pairs; i++) {
            uint32_t x = pairing == REFMODEL_HALF_SPLIT ? i : 2 * i;
            uint32_t y = pairing == REFMODEL_HALF_SPLIT ? i + pairs : 2 * i + 1;
            double angle = (double)places[n] * pow(10000.0, -(double)i / (double)pairs);
            double c = cos(angle) * factor;
            double s = sin(angle) * factor;
            ck_assert_double_eq_tol((double)head[x], (double)before[x] * c - (double)before[y] * s,
                                    5e-7);
            ck_assert_double_eq_tol((double)head[y], (double)before[y] * c + (double)before[x] * s,
                                    5e-7);
        }
        for (uint32_t i = 2 * pairs; i < DIM; i++) {
            ck_assert(head[i] == before[i]);
        }
    }
}

START_TEST(turns_as_in_double_precision)
    {
        check_turning(REFMODEL_HALF_SPLIT, PAIRS, 1.0);
        check_turning(REFMODEL_INTERLEAVED, PAIRS, 1.0);
        check_turning(REFMODEL_HALF_SPLIT, 12, 1.0);
        check_turning(REFMODEL_INTERLEAVED, 5, 1.1386);
    }
END_TEST

/* What re-positioning relies on: turning to p and on by q - p is turning to q; the attention
 * factor is in both and not in the difference. */
START_TEST(turning_on_is_turning_to)
    {
        double w[PAIRS];
        float turns[DIM];
        refmodel_rope_default(10000.0, DIM, w);
        const struct refmodel_rope rope = {w, 1.25};
        const struct refmodel_rope difference = {w, 1.0};
        float moved[DIM];
        float direct[DIM];
        for (int i = 0; i < DIM; i++) {
            moved[i] = direct[i] = (float)(i % 7) - 3.0f;
        }
        refmodel_rope_turns(&rope, PAIRS, 100, turns);
        refmodel_rope_turn(REFMODEL_HALF_SPLIT, PAIRS, turns, moved);
        refmodel_rope_turns(&difference, PAIRS, 2900, turns);
        refmodel_rope_turn(REFMODEL_HALF_SPLIT, PAIRS, turns, moved);
        refmodel_rope_turns(&rope, PAIRS, 3000, turns);
        refmodel_rope_turn(REFMODEL_HALF_SPLIT, PAIRS, turns, direct);
        for (int i = 0; i < DIM; i++) {
            ck_assert_double_eq_tol((double)moved[i], (double)direct[i], 5e-6);
        }
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("rope");
    tcase_add_test(tcase, default_and_linear);
    tcase_add_test(tcase, llama3);
    tcase_add_test(tcase, yarn);
    tcase_add_test(tcase, turns_as_in_double_precision);
    tcase_add_test(tcase, turning_on_is_turning_to);
    Suite *suite = suite_create("rope");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
