"""Programs beside the product, which know only its public interfaces."""
