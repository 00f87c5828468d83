//! What every part shares: ids, settings, flags, logging.
