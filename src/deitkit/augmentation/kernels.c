/* A view's flip and operations on an RGB image of bytes, to the bit what `operations.py` makes.

   Operation codes are those of op_codes.py, parameters those that compiled.py prepares. Sums keep
   the order and the precision of what they stand for: doubles for Pillow's transform, floats for
   axis_operations.py and Pillow's blend. Nothing may be contracted or reordered (setup.py).

   Shapes: images are [height][width][3], `planes` is [3][height][width]. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif
#define INSIDE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(16)));
typedef int32_t whole_numbers __attribute__((vector_size(16)));

enum {
    NONE, AUTOCONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOR,
    CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, GRAYSCALE
};
enum { NUM_PARAMS = 6, BLACK = 0, SOLARIZE_ADD_BELOW = 128 };

static const float ROUNDED_UP = 1e-4f;

static long clamp(long value, long low, long high)
{
    return value < low ? low : value > high ? high : value;
}

INSIDE uint8_t level_of(float value)
{
    value = value < 0.0f ? 0.0f : value;
    value = value > 255.0f ? 255.0f : value;
    return (uint8_t)(int)value;
}

INSIDE uint8_t grey_of(const uint8_t *pixel)
{
    return (uint8_t)((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16);
}

/* ---- levels: each byte looked up in the table of its channel ---- */

FOR_EACH_CPU static void look_up(uint8_t *image, long num_pixels, uint8_t table[3][256])
{
    for (long i = 0; i < num_pixels; i++, image += 3) {
        image[0] = table[0][image[0]];
        image[1] = table[1][image[1]];
        image[2] = table[2][image[2]];
    }
}

static void count_levels(const uint8_t *image, long num_pixels, long counts[3][256])
{
    memset(counts, 0, 3 * 256 * sizeof(long));
    for (long i = 0; i < num_pixels; i++, image += 3)
        for (int channel = 0; channel < 3; channel++)
            counts[channel][image[channel]]++;
}

static void stretch_table(const long counts[256], uint8_t table[256])
{
    int low = 0, high = 255;
    while (low < 255 && !counts[low]) low++;
    while (high > 0 && !counts[high]) high--;
    double scale = high > low ? 255.0 / (high - low) : 1.0;
    double offset = high > low ? -low * scale : 0.0;
    for (int level = 0; level < 256; level++)
        table[level] = (uint8_t)clamp((long)(level * scale + offset), 0, 255);
}

static void equal_table(const long counts[256], uint8_t table[256])
{
    long total = 0, last = 0, levels = 0;
    for (int level = 0; level < 256; level++)
        if (counts[level]) {
            total += counts[level];
            last = counts[level];
            levels++;
        }
    long step = levels > 1 ? (total - last) / 255 : 0;
    long sum = step / 2;
    for (int level = 0; level < 256; level++) {
        table[level] = (uint8_t)(step ? clamp(sum / step, 0, 255) : level);
        sum += counts[level];
    }
}

static void blend_table(int onto, float factor, uint8_t table[256])
{
    for (int level = 0; level < 256; level++)
        table[level] = level_of((float)onto + factor * ((float)level - (float)onto));
}

static int mean_grey(const uint8_t *image, long num_pixels)
{
    int64_t sum = 0;
    for (long i = 0; i < num_pixels; i++)
        sum += grey_of(image + 3 * i);
    return (int)((double)sum / (double)num_pixels + 0.5);
}

static void change_levels(int code, double param, uint8_t *image, long num_pixels)
{
    uint8_t table[3][256];
    long counts[3][256];
    int is_one_table = 1, whole = (int)param;
    if (code == AUTOCONTRAST || code == EQUALIZE) {
        is_one_table = 0;
        count_levels(image, num_pixels, counts);
        for (int channel = 0; channel < 3; channel++)
            (code == EQUALIZE ? equal_table : stretch_table)(counts[channel], table[channel]);
    } else if (code == BRIGHTNESS) {
        blend_table(BLACK, (float)param, table[0]);
    } else if (code == CONTRAST) {
        blend_table(mean_grey(image, num_pixels), (float)param, table[0]);
    } else
        for (int level = 0; level < 256; level++) {
            int changed = level;
            if (code == INVERT) changed = 255 - level;
            if (code == POSTERIZE) changed = level & ~((1 << (8 - whole)) - 1);
            if (code == SOLARIZE) changed = level < whole ? level : 255 - level;
            if (code == SOLARIZE_ADD && level < SOLARIZE_ADD_BELOW)
                changed = (int)clamp(level + whole, 0, 255);
            table[0][level] = (uint8_t)changed;
        }
    if (is_one_table) {
        memcpy(table[1], table[0], 256);
        memcpy(table[2], table[0], 256);
    }
    look_up(image, num_pixels, table);
}

/* ---- towards another image: Pillow's blend, onto + factor * (image - onto) ---- */

FOR_EACH_CPU static void blend(const uint8_t *onto, uint8_t *image, long num_bytes, float factor)
{
    for (long i = 0; i < num_bytes; i++)
        image[i] = level_of((float)onto[i] + factor * (float)(image[i] - onto[i]));
}

FOR_EACH_CPU static void make_grey(const uint8_t *image, uint8_t *grey, long num_pixels)
{
    for (long i = 0; i < num_pixels; i++)
        grey[3 * i] = grey[3 * i + 1] = grey[3 * i + 2] = grey_of(image + 3 * i);
}

FOR_EACH_CPU static void make_smooth(const uint8_t *image, uint8_t *smooth, long height, long width)
{
    long row = 3 * width;
    memcpy(smooth, image, (size_t)(row * height));
    for (long y = 1; y < height - 1; y++) {
        const uint8_t *middle = image + row * y, *above = middle - row, *below = middle + row;
        uint8_t *restrict out = smooth + row * y;
        for (long i = 3; i < row - 3; i++) {
            uint32_t sum = (uint32_t)(above[i - 3] + above[i] + above[i + 3]) +
                           (uint32_t)(middle[i - 3] + 5 * middle[i] + middle[i + 3]) +
                           (uint32_t)(below[i - 3] + below[i] + below[i + 3]) + 6;
            out[i] = (uint8_t)(sum * 20165 >> 18); /* sum / 13, for sums up to 13 * 255 + 6 */
        }
    }
}

/* ---- along one axis: axis_operations.py ---- */

typedef struct {
    long start, low, high; /* first of four neighbours of place 0; places fetched from inside */
    float weights[4];
} Moved;

static Moved moved_by(double shift, long length)
{
    Moved moved;
    double whole = floor(shift);
    double x = (double)(float)(shift - whole), square = x * x;
    double within = whole < -length - 2 ? -length - 2 : whole > length + 2 ? length + 2 : whole;
    double low = ceil(-0.5 - shift), high = ceil((double)length - 0.5 - shift);
    moved.start = (long)within - 1;
    moved.low = low < 0 ? 0 : low > length ? length : (long)low;
    moved.high = high < 0 ? 0 : high > length ? length : (long)high;
    moved.weights[0] = (float)(-x * ((x - 1) * (x - 1)));
    moved.weights[1] = (float)(square * (x - 2) + 1);
    moved.weights[2] = (float)(x * (1 + x - square));
    moved.weights[3] = (float)(square * (x - 1));
    return moved;
}

INSIDE uint8_t weighed(const float *w, float a, float b, float c, float d)
{
    float sum = a * w[0];
    sum += b * w[1];
    sum += c * w[2];
    sum += d * w[3];
    return level_of(sum + ROUNDED_UP);
}

static void weigh_pixel(const uint8_t *const near[4], uint8_t *out, const float *w)
{
    for (int channel = 0; channel < 3; channel++)
        out[channel] = weighed(w, near[0][channel], near[1][channel], near[2][channel],
                               near[3][channel]);
}

static void fill_pixels(uint8_t *out, long num_pixels, const uint8_t *fill)
{
    for (long i = 0; i < num_pixels; i++, out += 3) {
        out[0] = fill[0];
        out[1] = fill[1];
        out[2] = fill[2];
    }
}

FOR_EACH_CPU static void weigh_bytes(
    const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d, uint8_t *restrict out,
    long num_bytes, const float *w)
{
    for (long i = 0; i < num_bytes; i++)
        out[i] = weighed(w, a[i], b[i], c[i], d[i]);
}

static void move_border(const uint8_t *in, uint8_t *out, long width, const Moved *by, long first,
                        long last)
{
    for (long x = first; x < last; x++) {
        const uint8_t *near[4];
        for (long k = 0; k < 4; k++)
            near[k] = in + 3 * clamp(x + by->start + k, 0, width - 1);
        weigh_pixel(near, out + 3 * x, by->weights);
    }
}

static void move_row(const uint8_t *in, uint8_t *out, long width, Moved by, const uint8_t *fill)
{
    /* Places whose four neighbours are all inside. */
    long first = clamp(-by.start, by.low, by.high);
    long last = clamp(width - 3 - by.start, first, by.high);
    const uint8_t *from = in + 3 * (by.start + first);
    fill_pixels(out, by.low, fill);
    fill_pixels(out + 3 * by.high, width - by.high, fill);
    if (last > first)
        weigh_bytes(from, from + 3, from + 6, from + 9, out + 3 * first, 3 * (last - first),
                    by.weights);
    move_border(in, out, width, &by, by.low, first);
    move_border(in, out, width, &by, last, by.high);
}

static void shear_columns(const uint8_t *in, uint8_t *out, long height, long width, double factor,
                          const uint8_t *fill)
{
    for (long y = 0; y < height; y++)
        move_row(in + 3 * width * y, out + 3 * width * y, width,
                 moved_by(factor * ((double)y + 0.5), width), fill);
}

static void shear_rows(const uint8_t *in, uint8_t *out, long height, long width, double factor,
                       const uint8_t *fill)
{
    long row = 3 * width;
    for (long x = 0; x < width; x++) {
        Moved by = moved_by(factor * ((double)x + 0.5), height);
        for (long y = 0; y < height; y++) {
            uint8_t *to = out + row * y + 3 * x;
            if (y < by.low || y >= by.high) {
                fill_pixels(to, 1, fill);
                continue;
            }
            const uint8_t *near[4];
            for (long k = 0; k < 4; k++)
                near[k] = in + row * clamp(y + by.start + k, 0, height - 1) + 3 * x;
            weigh_pixel(near, to, by.weights);
        }
    }
}

static void move_rows(const uint8_t *in, uint8_t *out, long height, long width, double shift,
                      const uint8_t *fill)
{
    long row = 3 * width;
    Moved by = moved_by(shift, height);
    fill_pixels(out, by.low * width, fill);
    fill_pixels(out + row * by.high, (height - by.high) * width, fill);
    for (long y = by.low; y < by.high; y++) {
        const uint8_t *near[4];
        for (long k = 0; k < 4; k++)
            near[k] = in + row * clamp(y + by.start + k, 0, height - 1);
        weigh_bytes(near[0], near[1], near[2], near[3], out + row * y, row, by.weights);
    }
}

/* ---- Pillow's bicubic affine transform ---- */

/* Between b and c, a share of the way, for each channel: Pillow's polynomial. */
#define BETWEEN(a, b, c, d, share) \
    ((b) + (share) * ((c) - (a) + (share) * (2 * ((a) - (b)) + (c) - (d) + \
                                             (share) * (-(a) + (b) - (c) + (d)))))

INSIDE uint8_t exact_level(const floats *const rows[4], const long columns[4], int channel,
                           double along, double down)
{
    double levels[4];
    for (int k = 0; k < 4; k++) {
        const floats *row = rows[k];
        double a = row[columns[0]][channel], b = row[columns[1]][channel];
        double c = row[columns[2]][channel], d = row[columns[3]][channel];
        levels[k] = BETWEEN(a, b, c, d, along);
    }
    double level = BETWEEN(levels[0], levels[1], levels[2], levels[3], down);
    return level <= 0 ? 0 : level >= 255 ? 255 : (uint8_t)(int)level;
}

/* A pixel `along` and `down` of the way from its second column and row. Pillow drops what is behind
   the point of its floats. Floats, three channels at a time, are off by less than NEAR, so they
   tell the level too, but where they come that near to a whole number. */
#define NEAR (1.0f / 128)

INSIDE void show_pixel(const floats *const rows[4], const long columns[4], double along,
                       double down, uint8_t *out)
{
    const float share = (float)along;
    floats levels[4];
    for (int k = 0; k < 4; k++) {
        const floats *row = rows[k];
        const floats a = row[columns[0]], b = row[columns[1]], c = row[columns[2]];
        const floats d = row[columns[3]], rise = b - a, four = rise + (d - c);
        levels[k] = b + share * ((c - a) + share * (share * four - (four + rise)));
    }
    const floats level = BETWEEN(levels[0], levels[1], levels[2], levels[3], (float)down);
    const whole_numbers whole = __builtin_convertvector(level, whole_numbers);
    const floats behind = level - __builtin_convertvector(whole, floats);
    const whole_numbers is_far = ((behind > NEAR) & (behind < 1 - NEAR) & (whole < 255)) |
                                 (level < -NEAR) | (level > 255 + NEAR);
    if (is_far[0] & is_far[1] & is_far[2])
        for (int channel = 0; channel < 3; channel++)
            out[channel] = (uint8_t)clamp(level[channel] < 0 ? 0 : whole[channel], 0, 255);
    else
        for (int channel = 0; channel < 3; channel++)
            out[channel] = exact_level(rows, columns, channel, along, down);
}

/* `wide` [height][width] holds the image, a pixel in a vector. */
FOR_EACH_CPU static void transform(const floats *wide, uint8_t *out, long height, long width,
                                   const double *m, const uint8_t *fill)
{
    for (long y = 0; y < height; y++)
        for (long x = 0; x < width; x++, out += 3) {
            double along = m[0] * ((double)x + 0.5) + m[1] * ((double)y + 0.5) + m[2];
            double down = m[3] * ((double)x + 0.5) + m[4] * ((double)y + 0.5) + m[5];
            if (!(along >= 0 && along < (double)width && down >= 0 && down < (double)height)) {
                fill_pixels(out, 1, fill);
                continue;
            }
            along -= 0.5;
            down -= 0.5;
            long left = along < 0 ? -1 : (long)along, top = down < 0 ? -1 : (long)down;
            along -= (double)left;
            down -= (double)top;
            const floats *rows[4];
            if (left >= 1 && left < width - 2 && top >= 1 && top < height - 2) {
                for (long k = 0; k < 4; k++)
                    rows[k] = wide + width * (top - 1 + k) + left - 1;
                show_pixel(rows, (const long[]){0, 1, 2, 3}, along, down, out);
            } else {
                long columns[4];
                for (long k = 0; k < 4; k++) {
                    rows[k] = wide + width * clamp(top - 1 + k, 0, height - 1);
                    columns[k] = clamp(left - 1 + k, 0, width - 1);
                }
                show_pixel(rows, columns, along, down, out);
            }
        }
}

FOR_EACH_CPU static void widen(const uint8_t *image, floats *wide, long num_pixels)
{
    for (long i = 0; i < num_pixels; i++, image += 3)
        wide[i] = (floats){image[0], image[1], image[2], 0};
}

/* ---- erasing.py's noise: SplitMix64's words, their highest bits through a table ---- */

enum { QUANTILE_SHIFT = 52 };

static uint64_t mixed(uint64_t word)
{
    word = (word ^ (word >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    word = (word ^ (word >> 27)) * UINT64_C(0x94D049BB133111EB);
    return word ^ (word >> 31);
}

/* `box` is top, left, bottom, right in `image` [channels][height][width]. */
void deitkit_noise(float *image, long channels, long height, long width, const long *box,
                   uint64_t key, const float *quantiles, const float *mean, const float *std)
{
    const uint64_t gamma = UINT64_C(0x9E3779B97F4A7C15);
    for (long channel = 0; channel < channels; channel++)
        for (long y = box[0]; y < box[2]; y++)
            for (long x = box[1]; x < box[3]; x++) {
                long place = (channel * height + y) * width + x;
                uint64_t word = mixed(key + ((uint64_t)place + 1) * gamma);
                image[place] = mean[channel] + std[channel] * quantiles[word >> QUANTILE_SHIFT];
            }
}

/* ---- a view ---- */

static void copy_flipped(const uint8_t *image, uint8_t *out, long height, long width)
{
    for (long y = 0; y < height; y++, image += 3 * width)
        for (long x = width - 1; x >= 0; x--, out += 3)
            memcpy(out, image + 3 * x, 3);
}

FOR_EACH_CPU static void write_planes(const uint8_t *image, uint8_t *restrict planes,
                                      long num_pixels)
{
    uint8_t *restrict red = planes, *restrict green = red + num_pixels;
    uint8_t *restrict blue = green + num_pixels;
    for (long i = 0; i < num_pixels; i++) {
        red[i] = image[3 * i];
        green[i] = image[3 * i + 1];
        blue[i] = image[3 * i + 2];
    }
}

/* `scratch` has 22 bytes a pixel, aligned to 16: one image as floats, and two of bytes. */
void deitkit_view(const uint8_t *shown, long height, long width, int flip, long num_ops,
                  const int32_t *codes, const double *params, const uint8_t *fill, uint8_t *scratch,
                  uint8_t *planes)
{
    long num_pixels = height * width, num_bytes = 3 * num_pixels;
    floats *wide = (floats *)scratch;
    uint8_t *image = scratch + sizeof(floats) * (size_t)num_pixels, *other = image + num_bytes;
    if (flip)
        copy_flipped(shown, image, height, width);
    else if (num_ops)
        memcpy(image, shown, (size_t)num_bytes);
    for (long op = 0; op < num_ops; op++, params += NUM_PARAMS) {
        int is_other = 1;
        switch (codes[op]) {
        case NONE: is_other = 0; break;
        case ROTATE:
            widen(image, wide, num_pixels);
            transform(wide, other, height, width, params, fill);
            break;
        case SHEAR_X: shear_columns(image, other, height, width, params[0], fill); break;
        case SHEAR_Y: shear_rows(image, other, height, width, params[0], fill); break;
        case TRANSLATE_X: {
            Moved by = moved_by(params[0], width);
            for (long y = 0; y < height; y++)
                move_row(image + 3 * width * y, other + 3 * width * y, width, by, fill);
            break;
        }
        case TRANSLATE_Y: move_rows(image, other, height, width, params[0], fill); break;
        case GRAYSCALE: make_grey(image, other, num_pixels); break;
        case COLOR:
            make_grey(image, other, num_pixels);
            blend(other, image, num_bytes, (float)params[0]);
            is_other = 0;
            break;
        case SHARPNESS:
            make_smooth(image, other, height, width);
            blend(other, image, num_bytes, (float)params[0]);
            is_other = 0;
            break;
        default:
            change_levels(codes[op], params[0], image, num_pixels);
            is_other = 0;
        }
        if (is_other) {
            uint8_t *before = image;
            image = other;
            other = before;
        }
    }
    write_planes(flip || num_ops ? image : shown, planes, num_pixels);
}
