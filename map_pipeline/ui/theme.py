"""Colours and fonts of the page."""

import gradio as gr


def theme() -> gr.themes.Base:
    """The page's own theme, light and dark."""
    return gr.themes.Soft(
        primary_hue="indigo",
        secondary_hue="violet",
        neutral_hue="slate",
        radius_size="lg",
        # Fonts of the visitor's own system: nothing is requested from third parties.
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        background_fill_primary="*neutral_50",
        # Gradio's greys are too faint to read for many (WCAG 2.2 asks for a contrast of 4.5 to 1).
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
        color_accent="*primary_600",  # and in the dark, see `style`
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        button_secondary_background_fill_hover_dark="*neutral_600",
        checkbox_label_background_fill_selected="*primary_600",
        # Headings of the form as plain bold text instead of coloured pills.
        block_title_background_fill="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        block_title_padding="0",
        block_title_background_fill_dark="none",
        block_label_background_fill="*neutral_50",
        block_label_background_fill_dark="*neutral_800",
        block_label_text_color="*body_text_color",
        block_label_text_color_dark="*body_text_color",
        button_large_radius="*radius_xl",
    )
