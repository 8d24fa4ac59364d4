#define TINY_VALUE 1.0f
