"""From records to static pages; never imports torch."""
