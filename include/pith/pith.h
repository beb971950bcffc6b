// Everything a program needs to run a model on a compressed cache.
#pragma once

#include "pith/batch.h"        // IWYU pragma: export
#include "pith/calibration.h"  // IWYU pragma: export
#include "pith/error.h"        // IWYU pragma: export
#include "pith/generate.h"     // IWYU pragma: export
#include "pith/model.h"        // IWYU pragma: export
#include "pith/plan.h"         // IWYU pragma: export
#include "pith/session.h"      // IWYU pragma: export
#include "pith/snapshot.h"     // IWYU pragma: export
#include "pith/text.h"         // IWYU pragma: export
