/* Rotary embedding: inverse frequencies by the usual formulas, angles in double, turning in
 * float. Angles in float would be wrong by 5e-4 at position 131,072. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "client/refmodel/model.h"

#define TAU 6.28318530717958647692

void refmodel_rope_default(double theta, uint32_t rotary_dim, double *inv_freq_out)
{
    for (uint32_t i = 0; i < rotary_dim / 2; i++) {
        inv_freq_out[i] = pow(theta, -2.0 * (double)i / (double)rotary_dim);
    }
}

void refmodel_rope_linear(double theta, double factor, uint32_t rotary_dim, double *inv_freq_out)
{
    refmodel_rope_default(theta, rotary_dim, inv_freq_out);
    for (uint32_t i = 0; i < rotary_dim / 2; i++) {
        inv_freq_out[i] /= factor;
    }
}

void refmodel_rope_llama3(const struct refmodel_rope_llama3 *scaling, uint32_t rotary_dim,
                          double *inv_freq_out)
{
    refmodel_rope_default(scaling->theta, rotary_dim, inv_freq_out);
    double longest = scaling->original_positions / scaling->low_freq_factor;
    double shortest = scaling->original_positions / scaling->high_freq_factor;
    for (uint32_t i = 0; i < rotary_dim / 2; i++) {
        double w = inv_freq_out[i];
        double wavelength = TAU / w;
        if (wavelength > longest) {
            inv_freq_out[i] = w / scaling->factor;
        } else if (wavelength >= shortest) {
            double t = (scaling->original_positions / wavelength - scaling->low_freq_factor) /
                       (scaling->high_freq_factor - scaling->low_freq_factor);
            inv_freq_out[i] = (1.0 - t) * w / scaling->factor + t * w;
        }
    }
}

/* The index of the pair that turns `turns` times within the original positions. */
static double yarn_index(const struct refmodel_rope_yarn *scaling, double dim, double turns)
{
    return dim * log(scaling->original_positions / (TAU * turns)) / (2.0 * log(scaling->theta));
}

double refmodel_rope_yarn(const struct refmodel_rope_yarn *scaling, uint32_t rotary_dim,
                          double *inv_freq_out)
{
    double dim = (double)rotary_dim;
    double low = fmax(floor(yarn_index(scaling, dim, scaling->beta_fast)), 0.0);
    double high = fmin(ceil(yarn_index(scaling, dim, scaling->beta_slow)), dim - 1.0);
    if (low == high) {
        high += 0.001;
    }
    refmodel_rope_default(scaling->theta, rotary_dim, inv_freq_out);
    for (uint32_t i = 0; i < rotary_dim / 2; i++) {
        double ramp = fmin(fmax(((double)i - low) / (high - low), 0.0), 1.0);
        double w = inv_freq_out[i];
        inv_freq_out[i] = w / scaling->factor * ramp + w * (1.0 - ramp);
    }
    return scaling->factor > 1.0 ? 0.1 * log(scaling->factor) + 1.0 : 1.0;
}

void refmodel_rope_turns(const struct refmodel_rope *rope, uint32_t pairs, uint32_t position,
                         float *cos_sin_out)
{
    for (uint32_t i = 0; i < pairs; i++) {
        double angle = (double)position * rope->inv_freq[i];
        cos_sin_out[i] = (float)(cos(angle) * rope->attention_factor);
        cos_sin_out[pairs + i] = (float)(sin(angle) * rope->attention_factor);
    }
}

void refmodel_rope_turn(enum refmodel_pairing pairing, uint32_t pairs, const float *cos_sin,
                        float *head)
{
    const float *sin_of = cos_sin + pairs;
    for (uint32_t i = 0; i < pairs; i++) {
        float *x = pairing == REFMODEL_HALF_SPLIT ? head + i : head + 2 * (size_t)i;
        float *y = pairing == REFMODEL_HALF_SPLIT ? x + pairs : x + 1;
        float turned_x = *x * cos_sin[i] - *y * sin_of[i];
        float turned_y = *y * cos_sin[i] + *x * sin_of[i];
        *x = turned_x;
        *y = turned_y;
    }
}
