"""Phone apps: projects with bundles inside, made of the sources that ship with edgegen."""
